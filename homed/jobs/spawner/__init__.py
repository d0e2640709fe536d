"""A small process that starts jobs and waits for them, where there is no systemd: it outlives homed."""
