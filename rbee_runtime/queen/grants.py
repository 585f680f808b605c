"""What a key may use, and what it may give to another: never more than it has."""

import fnmatch
from functools import lru_cache

from rbee_runtime.queen.records import KeyLimits, KeyRecord

_LONGEST_NAME = 256
"""Of a model whose answer is remembered; none that can be declared is longer."""


def may_use(record: KeyRecord, model: str) -> bool:
    """Say whether one of the key's globs covers the model."""
    known = _matches if len(model) <= _LONGEST_NAME else _matches.__wrapped__
    return known(record.models, model)


@lru_cache(maxsize=4096)
def _matches(globs: tuple[str, ...], model: str) -> bool:
    return any(fnmatch.fnmatchcase(model, glob) for glob in globs)


def excess(creator: KeyRecord, wanted: KeyRecord) -> str:
    """Return what a key would have that its creator has not, "" if there is nothing."""
    scopes = sorted(wanted.scopes - creator.scopes)
    if scopes:
        return f"the scope {scopes[0]}"
    models = [glob for glob in wanted.models if not any(covers(wide, glob) for wide in creator.models)]
    if models:
        return f"the model {models[0][:100]!r}"
    if creator.expires and not 0 < wanted.expires <= creator.expires:
        return "a later end"
    if wanted.priority.rank < creator.priority.rank:
        return f"the priority {wanted.priority}"
    return _beyond(creator.limits, wanted.limits)


def _beyond(creator: KeyLimits, wanted: KeyLimits) -> str:
    for name, most in vars(creator).items():
        mine = getattr(wanted, name)
        if most is not None and (mine is None or mine > most):
            return f"{name} above {most}"
    return ""


@lru_cache(maxsize=4096)
def covers(wide: str, narrow: str) -> bool:
    """Say whether each name that one glob of `*` and `?` matches is matched by a wider one, too.

    A no may be wrong for globs that say the same in other words (`?*` and `*?`), a yes never is. All places of `wide`
    that are reached by what was read of `narrow` are the bits of one number, so that no pair of globs takes long.
    """
    stars = sum(1 << place for place, letter in enumerate(wide) if letter == "*")
    singles = sum(1 << place for place, letter in enumerate(wide) if letter == "?")
    reached = _past(1, stars)
    for letter in narrow:
        own = 0 if letter == "*" else sum(1 << place for place, each in enumerate(wide) if each == letter)
        fits = own | (0 if letter == "*" else singles)
        reached = _past((reached & fits) << 1 | (reached & stars), stars)
    return bool(reached >> len(wide) & 1)


def _past(reached: int, stars: int) -> int:
    """Add the places behind stars, which may stand for nothing."""
    while (more := reached | (reached & stars) << 1) != reached:
        reached = more
    return reached
