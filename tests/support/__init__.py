"""What tests on real parts share: an engine of their own, a registry, homed as a process, Debian tools."""
