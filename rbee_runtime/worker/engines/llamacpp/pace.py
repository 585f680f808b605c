"""How many tokens of prompts a step may take, from how long the last ones took."""

ALONGSIDE_SECONDS = 0.5
"""So much later comes the next token of an answer that runs, because of prompts, while as many prompts wait. It is in
proportion to how many wait for one that runs, down to half of it: fewer and longer steps are less work in all, and
answers that begin together are computed together. A short prompt may be late by more, but only once."""

WHOLE_ROOMS = 3
"""A prompt that has up to so many times the tokens of a step, and keeps it below ALONE_SECONDS, is not divided."""

ALONE_SECONDS = 0.7
"""At most, and while no answer runs. With a rest of a prompt that is taken with it a step stays below a second, after
which the slot of a client that left has to be free; larger ones are no faster."""

LEAST, FIRST = 32, 128
"""Tokens: below the least, matrices are too small for any hardware to be quick; the first step knows nothing yet."""

REST_SHARE = 4
"""A rest of a prompt up to this part (one over it) of a step's tokens is taken with the step before."""

TILE = 64
"""Rows of attention that llama.cpp computes together: a rest of a few takes as long as all of them."""

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

    def whole(self, answering: int, waiting: int = 1) -> int:
        """Return up to how many tokens a prompt is not divided: in pieces it takes longer, and so wait all others."""
        room = self.room(answering, waiting)
        if self._token is None:
            return room
        seconds = ALONE_SECONDS - (self._answers or 0.0 if answering else 0.0)
        return min(self._batch, WHOLE_ROOMS * room, int(max(0.0, seconds) / self._token))

    def room(self, answering: int, waiting: int = 1) -> int:
        """Return how many tokens of prompts the next step may take while so many answers run and prompts wait."""
        if self._token is None:
            return min(FIRST, self._batch)
        alongside = ALONGSIDE_SECONDS * max(0.5, waiting / answering) if answering else ALONE_SECONDS
        room = int(min(ALONE_SECONDS, alongside) / self._token)
        return min(self._batch, max(LEAST, room - room % TILE if room > TILE else room))


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
