"""Jobs: one model for commands, scripts, archives and typed tasks, wherever they run."""
