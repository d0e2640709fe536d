"""`homed worker`: takes archives from a homed elsewhere, runs their commands here, and reports."""
