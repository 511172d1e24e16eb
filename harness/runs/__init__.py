"""Runs as things to list, move between stores as one file, and delete: `resbench runs`."""
