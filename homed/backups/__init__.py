"""Backups of the board: archives and restic snapshots, made, kept, verified, copied and restored."""
