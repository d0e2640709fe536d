"""Containers: the engine, the view of what it has, and the services that are kept running in it."""
