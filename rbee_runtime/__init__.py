"""What the units run: queen, hive, worker and the keeper CLI."""

__version__ = "0.1.0"
