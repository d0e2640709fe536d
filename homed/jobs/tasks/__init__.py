"""Typed tasks: what each is given, what it does, and what it answers."""
