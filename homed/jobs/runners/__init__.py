"""The runners of processes on this board."""
