"""Component tests: homed as a process, on a Docker Engine of its own."""
