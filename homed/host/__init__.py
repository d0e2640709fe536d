"""The board itself: its hardware, its network, what systemd is told and how homed logs."""
