"""Expressions of Python, evaluated by an interpreter of homed's own, in a process that may do nothing else.

It imports nothing of homed: the process starts for each expression.
"""
