"""Bundles: one folder with all that hosts get, for a network that reaches nothing else."""
