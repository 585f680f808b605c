"""What the units run: queen, hive, worker and the keeper CLI."""

import sys

__version__ = "0.1.0"

# httpx imports what its command line needs, rich and pygments, if they are installed: a third of a worker's start.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
