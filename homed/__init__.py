"""homed: the one daemon on each board of an edge appliance."""

__version__ = "0.1.0"
