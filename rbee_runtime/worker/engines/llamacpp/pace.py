"""How many tokens of prompts a step may take, from how long the last ones took."""

ALONGSIDE_SECONDS = 0.25
"""So much later at most comes the next token of an answer that runs, because somebody else's prompt is computed."""

ALONE_SECONDS = 0.5
"""While no answer runs: so soon a step sees that its client left, and larger ones are hardly faster."""

LEAST, FIRST = 32, 128
"""Tokens: below the least, matrices are too small for any hardware to be quick; the first step knows nothing yet."""

_WEIGHT = 0.3
"""Of the newest measurement in the mean."""


class Pace:
    """Means of what a step costs: `answers` seconds without any prompt, and seconds more for each of its tokens."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._answers: float | None = None
        self._token: float | None = None

    def took(self, seconds: float, *, prompts: int, answering: int) -> None:
        """Learn from one step with `prompts` tokens of prompts and `answering` answers."""
        if not prompts:
            self._answers = _mean(self._answers, seconds)
        elif prompts >= LEAST:
            base = (self._answers or 0.0) if answering else 0.0
            # A machine that was busy elsewhere during the one and not during the other would give nonsense.
            self._token = _mean(self._token, max(seconds - base, seconds / 4) / prompts)

    def room(self, answering: int) -> int:
        """Return how many tokens of prompts the next step may take."""
        if self._token is None:
            return min(FIRST, self._batch)
        seconds = ALONGSIDE_SECONDS if answering else ALONE_SECONDS
        return min(self._batch, max(LEAST, int(seconds / self._token)))


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
