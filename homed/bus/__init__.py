"""The system bus: the only place that imports dbus-next. One connection, and typed wrappers for what homed calls."""
