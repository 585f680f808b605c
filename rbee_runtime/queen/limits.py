"""Limits of keys: requests at a time, requests per minute, tokens per minute.

A key that was made by a limited one draws on that one's limits too, even after that was revoked: keys that make keys
cannot multiply what they may use. Everything is in memory; a new queen begins with full buckets.
"""

from collections.abc import Callable
from math import ceil

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.records import KeyLimits, KeyRecord

BYTES_PER_TOKEN = 4
"""English text has some four bytes in a token; other languages have less, and what was spent corrects it."""

DEFAULT_ANSWER = 512
"""Tokens of an answer whose client set no limit, until it is known what this key's answers are like."""

MOST_TOKENS = 10_000_000
"""Of a prompt or an answer, more than any model takes."""

_REQUESTS = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")
_LEARNED = 0.1
_MINUTE = 60.0
_NOTHING = 1e-6
"""What is missing by the rounding of numbers."""


class Bucket:
    """Holds what may be used in a minute and fills evenly; an amount above that is had when it is full."""

    __slots__ = ("_level", "_rate", "_since", "size")

    def __init__(self, per_minute: int, now: float) -> None:
        self.size = per_minute
        self._rate = per_minute / _MINUTE
        self._level = float(per_minute)
        self._since = now

    def level(self, now: float) -> float:
        """Return what is there; below zero after a request that cost more than was thought."""
        if now != self._since:
            level = self._level + (now - self._since) * self._rate
            self._level = level if level < self.size else float(self.size)
            self._since = now
        return self._level

    def wait(self, amount: float, now: float) -> float:
        """Return how many seconds it takes until an amount is there, 0 if it is."""
        missing = min(self.size, amount) - self.level(now)
        return missing / self._rate if missing > _NOTHING else 0.0

    def take(self, amount: float, now: float) -> float:
        """Take an amount that is there, and return how much was taken: at most all that the bucket holds."""
        taken = float(min(self.size, amount))
        self._level = self.level(now) - taken
        return taken

    def give(self, amount: float, now: float) -> None:
        """Put back what was not used."""
        self._level = min(self.level(now) + amount, float(self.size))

    def correct(self, taken: float, cost: float, now: float) -> None:
        """Replace what was taken by what it cost; a debt is never larger than the cost of the request that made it."""
        level = self.level(now)
        if cost <= taken:
            self._level = min(level + taken - cost, float(self.size))
        else:
            self._level = max(level + taken - cost, min(level, -cost))


class Meter:
    """What one limited key uses now; its `chain` is itself and the meters of the limited keys that it comes from."""

    __slots__ = ("answer", "chain", "concurrency", "open", "requests", "tokens")

    def __init__(self, limits: KeyLimits, above: "Meter | None", now: float) -> None:
        self.chain: tuple[Meter, ...] = (self, *(above.chain if above is not None else ()))
        self.concurrency = limits.concurrency
        self.open = 0
        self.answer = float(DEFAULT_ANSWER)
        self.requests = _bucket(limits.requests_per_minute, now)
        self.tokens = _bucket(limits.tokens_per_minute, now)

    def refusal(self, cost: int, now: float) -> RequestError | None:
        """Return why a request of so many tokens may not come now, or None."""
        if self.concurrency is not None and self.open >= self.concurrency:
            return _limited("key_concurrency", f"have {_some(self.concurrency, 'request')} at a time", 1.0)
        if self.requests is not None and (wait := self.requests.wait(1, now)):
            return _limited("rate_limit_requests", f"send {_some(self.requests.size, 'request')} per minute", wait)
        if self.tokens is not None and (wait := self.tokens.wait(cost, now)):
            return _limited("rate_limit_tokens", f"use {_some(self.tokens.size, 'token')} per minute", wait)
        return None


class Charge:
    """What one request took from the meters of its key."""

    __slots__ = ("_clock", "_counts", "_meter", "_open", "_taken")

    def __init__(self, meter: Meter, cost: int, now: float, clock: Callable[[], float], *, counts: bool) -> None:
        self._meter = meter
        self._clock = clock
        self._counts = counts
        self._open = True
        self._taken: list[tuple[Bucket, float]] = []
        for each in meter.chain:
            each.open += 1
            if counts and each.requests is not None:
                each.requests.take(1, now)
            if each.tokens is not None:
                self._taken.append((each.tokens, each.tokens.take(cost, now)))

    def correct(self, prompt: int, answer: int) -> None:
        """Replace the estimate by what it cost."""
        if self._taken:
            now = self._clock()
            for bucket, taken in self._taken:
                bucket.correct(taken, prompt + answer, now)
        self._meter.answer += (answer - self._meter.answer) * _LEARNED

    def refund(self, *, requests: bool) -> None:
        """Give the tokens back, for nothing came of it, and with `requests` the request too."""
        now = self._clock()
        for bucket, taken in self._taken:
            bucket.give(taken, now)
        for meter in self._meter.chain:
            if requests and self._counts and meter.requests is not None:
                meter.requests.give(1, now)

    def leave(self) -> None:
        """Be no longer one of the requests at a time; further calls do nothing."""
        if self._open:
            self._open = False
            for meter in self._meter.chain:
                meter.open -= 1


class Limiter:
    """The meters of all keys that have limits; `find` returns keys, also those that do not work any more."""

    def __init__(self, find: Callable[[str], KeyRecord | None], clock: Callable[[], float]) -> None:
        self._find = find
        self._clock = clock
        self._meters: dict[str, Meter | None] = {}

    def estimate(self, ask: Ask) -> tuple[int, int]:
        """Return how many tokens of prompt and of answer a request will take, as far as that can be told before."""
        return _estimate(ask, self._meter(ask.key))

    def check(self, ask: Ask) -> None:
        """Raise RequestError if a limit of the key is reached; another try of a request that is in already is free."""
        meter = self._meter(ask.key)
        if meter is not None and not ask.tried:
            _check(meter, sum(_estimate(ask, meter)), self._clock())

    def enter(self, ask: Ask) -> Charge | None:
        """Take what a request needs, or raise RequestError and take nothing; None for a key without limits."""
        meter = self._meter(ask.key)
        if meter is None:
            return None
        cost, now, counts = sum(_estimate(ask, meter)), self._clock(), not ask.tried
        if counts:
            _check(meter, cost, now)
        return Charge(meter, cost, now, self._clock, counts=counts)

    def headers(self, key_id: str) -> list[tuple[bytes, bytes]]:
        """Return what is left of a key's limits per minute, under the names of OpenAI's headers."""
        meter = self._meter(key_id)
        if meter is None:
            return []
        now = self._clock()
        told = [] if meter.requests is None else _told(_REQUESTS, meter.requests, now)
        return told if meter.tokens is None else told + _told(_TOKENS, meter.tokens, now)

    def _meter(self, key_id: str) -> Meter | None:
        try:
            return self._meters[key_id]
        except KeyError:
            return self._new_meter(key_id)

    def _new_meter(self, key_id: str) -> Meter | None:
        record = self._find(key_id)
        if record is None:
            return None
        above = self._meter(record.parent) if record.parent else None
        meter = Meter(record.limits, above, self._clock()) if record.limits or above is not None else None
        self._meters[key_id] = meter
        return meter


def prompt_tokens(ask: Ask) -> int:
    """Return how many tokens the prompt of a request is thought to have."""
    return ask.size // BYTES_PER_TOKEN


def plausible(tokens: int) -> int:
    """Return a number of tokens that somebody else told, or the nearest one that can be."""
    return min(max(tokens, 0), MOST_TOKENS)


def _estimate(ask: Ask, meter: Meter | None) -> tuple[int, int]:
    usual = DEFAULT_ANSWER if meter is None else ceil(meter.answer)
    return prompt_tokens(ask), plausible(ask.limit) or usual


def _check(meter: Meter, cost: int, now: float) -> None:
    for each in meter.chain:
        if refusal := each.refusal(cost, now):
            raise refusal


def _bucket(per_minute: int | None, now: float) -> Bucket | None:
    return None if per_minute is None else Bucket(per_minute, now)


def _limited(code: str, what: str, wait: float) -> RequestError:
    retry_after = min(max(ceil(wait), 1), 60)
    message = f"this key, with those that it made, may {what}; try again in {retry_after} s"
    return RequestError(429, message, kind="rate_limit_error", code=code, retry_after=retry_after)


def _some(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _told(names: tuple[bytes, bytes, bytes], bucket: Bucket, now: float) -> list[tuple[bytes, bytes]]:
    level = bucket.level(now)
    left, full = max(int(level), 0), ceil((bucket.size - level) * _MINUTE / bucket.size)
    return [(names[0], b"%d" % bucket.size), (names[1], b"%d" % left), (names[2], b"%ds" % full)]
