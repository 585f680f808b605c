"""Whether this host empties itself: `<state_dir>/drained` is there or not, so that nothing in it can be wrong."""

from pathlib import Path

from rbee_runtime import durable, logs


class DrainFlag:
    """Kept over restarts and reboots."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "drained"
        self.is_set = self._path.exists()

    def set(self, drained: bool) -> None:
        """Keep the wish, or raise StateError and change nothing."""
        if drained is self.is_set:
            return
        if drained:
            durable.write(self._path, b"")
        else:
            durable.remove(self._path)
        self.is_set = drained
        logs.info("drain" if drained else "undrain")
