"""Requests that were cancelled before they came, or after they ended: which of both, nobody can tell."""

MOST = 1024


class Forgotten:
    """Their numbers, the latest ones only."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()

    def add(self, request: int) -> None:
        """Remember one; those that had ended when the word came are never asked about again."""
        self._numbers.add(request)
        self._numbers.difference_update(sorted(self._numbers)[:-MOST])

    def pop(self, request: int) -> bool:
        """Say whether it was cancelled, and forget that."""
        left = request in self._numbers
        self._numbers.discard(request)
        return left
