"""What is measured of homed, each figure as a ratio to something beside it in the same run."""
