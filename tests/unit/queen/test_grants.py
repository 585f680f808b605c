"""Keys never give more than they have: whatever is called in whatever order, nobody's rights grow."""

import fnmatch
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.admin_keys import NewKey, _create
from rbee_runtime.queen.grants import covers, excess, may_use
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.limits import Limiter
from rbee_runtime.queen.records import KeyLimits, KeyRecord, Priority, Scope
from rbee_runtime.queen.store import Store
from tests.unit.queen.states import Clock

NAMES = ("a", "b", "ab", "ba", "abb", "bab/a", "a:b", "x")
LIMITS = st.none() | st.integers(1, 4)
NOW = 1_000_000


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("*", "*", True),
        ("*", "a?b*", True),
        ("a*", "*", False),
        ("a*", "ab*", True),
        ("a*", "?*", False),
        ("?", "*", False),
        ("?", "a", True),
        ("a", "?", False),
        ("**", "", True),
        ("a*b*c", "a*c", False),
        ("a*c", "a*b*c", True),
        ("a", "a", True),
        ("a", "b", False),
    ],
)
def test_a_wider_pattern_covers_a_narrower_one(wide: str, narrow: str, covered: bool) -> None:
    """Every name of the one is a name of the other."""
    assert covers(wide, narrow) is covered


def test_no_name_slips_through_a_pattern() -> None:
    """If one pattern is said to cover another, no name is in the other alone: all of up to three letters and signs."""
    names = ["".join(letters) for length in range(5) for letters in product("ab", repeat=length)]
    globs = ["".join(letters) for length in range(1, 4) for letters in product("ab*?", repeat=length)]
    matched = {glob: {name for name in names if fnmatch.fnmatchcase(name, glob)} for glob in globs}
    covered = [(wide, narrow) for wide, narrow in product(globs, globs) if covers(wide, narrow)]
    assert len(covered) > 1000
    assert [pair for pair in covered if not matched[pair[1]] <= matched[pair[0]]] == []


def test_a_pattern_made_to_take_long_does_not() -> None:
    """Two patterns of stars and letters are compared in one pass over them."""
    assert not covers("*a" * 90 + "b", "a*" * 90)


KEY = KeyRecord("k", "n", "", frozenset({Scope.INFER}), ("a*",), 0)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({}, ""),
        ({"scopes": frozenset(Scope)}, "the scope admin:read"),
        ({"models": ("ab", "b")}, "the model 'b'"),
        ({"expires": 0}, "a later end"),
        ({"expires": 11}, "a later end"),
        ({"expires": 9}, ""),
        ({"priority": Priority.INTERACTIVE}, "the priority interactive"),
        ({"priority": Priority.BATCH}, ""),
        ({"limits": KeyLimits()}, "requests_per_minute above 5"),
        ({"limits": KeyLimits(requests_per_minute=6)}, "requests_per_minute above 5"),
        ({"limits": KeyLimits(requests_per_minute=4, concurrency=9)}, ""),
    ],
)
def test_what_is_too_much_is_named(wanted: dict[str, object], said: str) -> None:
    """The first thing that a creator has not itself."""
    base = {"expires": 10, "limits": KeyLimits(requests_per_minute=5)}
    creator = KeyRecord(**{**vars(KEY), **base})
    assert excess(creator, KeyRecord(**{**vars(KEY), **base, **wanted})) == said


@contextmanager
def some_keys() -> Iterator[Keys]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        yield Keys(store, now=lambda: NOW)
        store.close()


BODIES = st.fixed_dictionaries(
    {"name": st.just("n")},
    optional={
        "scopes": st.lists(st.sampled_from([*Scope, "admin"]), min_size=1, max_size=3),
        "models": st.lists(st.sampled_from(["*", "a", "a*", "ab*", "*b", "?", "??", "b"]), min_size=1, max_size=2),
        "expires": st.sampled_from([0, NOW + 1, NOW + 10, NOW + 20]),
        "limits": st.fixed_dictionaries(
            {}, optional={"concurrency": LIMITS, "requests_per_minute": LIMITS, "tokens_per_minute": LIMITS}
        ),
        "priority": st.sampled_from(Priority),
    },
)
CALLS = st.lists(st.tuples(st.integers(0, 99), BODIES | st.integers(0, 99)), max_size=25)


def attacked(keys: Keys, first: KeyRecord, calls: list[tuple[int, object]]) -> list[KeyRecord]:
    """Make calls as whoever has one key and all that come of it; return the keys that they have then."""
    mine = [first]
    for whose, what in calls:
        holder = mine[whose % len(mine)]
        try:
            if isinstance(what, dict) and Scope.ADMIN_WRITE in holder.scopes:
                mine.append(_create(keys, NewKey.model_validate(what), holder)[0])
            elif isinstance(what, int) and Scope.ADMIN_WRITE in holder.scopes:
                keys.revoke(keys.listed()[what % len(keys.listed())].id)
        except RequestError:
            continue
    return mine


@settings(deadline=None, max_examples=60)
@given(BODIES, CALLS)
def test_no_sequence_of_calls_raises_what_a_key_may_do(
    body: dict[str, object], calls: list[tuple[int, object]]
) -> None:
    """Scopes, models, end, priority and limits of all keys that come of one are within those of that one."""
    with some_keys() as keys:
        root, _ = keys.create("root", Scope, priority=Priority.INTERACTIVE)
        given_scopes = {"scopes": ["infer", "admin"], **body}
        first, _ = _create(keys, NewKey.model_validate(given_scopes), root)
        for key in attacked(keys, first, calls):
            assert key.scopes <= first.scopes
            assert {name for name in NAMES if may_use(key, name)} <= {name for name in NAMES if may_use(first, name)}
            assert not first.expires or 0 < key.expires <= first.expires
            assert [*Priority].index(key.priority) >= [*Priority].index(first.priority)
        assert any(not excess(each, root) for each in keys.active() if Scope.ADMIN_WRITE in each.scopes)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 5), CALLS)
def test_many_keys_use_no_more_than_the_one_they_come_from(
    at_once: int, per_minute: int, calls: list[tuple[int, object]]
) -> None:
    """A limited key that makes keys, revokes some and itself, has with all of them what it had alone."""
    with some_keys() as keys:
        root, _ = keys.create("root", Scope, priority=Priority.INTERACTIVE)
        limits = {"concurrency": at_once, "requests_per_minute": per_minute}
        first, _ = _create(keys, NewKey.model_validate({"name": "n", "scopes": [*Scope], "limits": limits}), root)
        limiter, admitted = Limiter(keys.find, Clock()), 0
        for key in attacked(keys, first, calls) * 6:
            try:
                limiter.enter(Ask(key.id, "m", limit=1))
            except RequestError:
                continue
            admitted += 1
        assert admitted == min(at_once, per_minute)
