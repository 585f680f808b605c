"""`rbee-keeper keys` and `usage` from their arguments to what they print."""

import json
import time
from datetime import UTC, datetime

import pytest

from rbee_runtime.errors import ConfigError
from rbee_runtime.keeper.key_commands import moment
from tests.unit.keeper.stand_in import NEW_KEY, TABLES, StandIn
from tests.unit.keeper.test_cli import Keeper, keeper, queen, server

__all__ = ["keeper", "queen", "server"]

NOW = datetime(2026, 11, 30, tzinfo=UTC).timestamp()


def test_a_new_key_goes_to_stdout_once_and_alone(keeper: Keeper) -> None:
    """It can be piped into a file; what a person needs to know goes beside it."""
    assert keeper("keys", "create", "bob") == (0, f"{NEW_KEY}\n", "id newnewne; keep the key, it is not shown again\n")
    assert json.loads(keeper("keys", "create", "bob", "--json")[1])["key"] == NEW_KEY


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("", {"scopes": ["infer"]}),
        ("--scope infer --scope admin", {"scopes": ["infer", "admin"]}),
        ("--model a* --model b", {"scopes": ["infer"], "models": ["a*", "b"]}),
        ("--expires 30d", {"scopes": ["infer"], "expires": NOW + 30 * 86_400}),
        ("--expires never", {"scopes": ["infer"], "expires": 0}),
        ("--priority batch", {"scopes": ["infer"], "priority": "batch"}),
        (
            "--limit concurrency=4 --limit requests-per-minute=60",
            {"scopes": ["infer"], "limits": {"concurrency": 4, "requests_per_minute": 60}},
        ),
    ],
)
def test_what_is_typed_is_asked_for(
    keeper: Keeper, queen: StandIn, monkeypatch: pytest.MonkeyPatch, typed: str, asked: dict[str, object]
) -> None:
    """What is not typed is left to the queen, who knows what the key that asks may give."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert keeper("keys", "create", "bob", *typed.split())[0] == 0
    assert queen.bodies == [{"name": "bob", **asked}]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("never", 0),
        ("1m", NOW + 60),
        ("12h", NOW + 12 * 3600),
        ("30d", NOW + 30 * 86_400),
        ("2w", NOW + 14 * 86_400),
        ("2026-12-01", NOW + 86_400),
        ("2026-12-01T01:00+01:00", NOW + 86_400),
    ],
)
def test_an_end_is_a_duration_or_a_time(text: str, seconds: float) -> None:
    """Durations count from now, a day begins in UTC, and a time may have its zone."""
    assert moment(text, NOW + 0.9) == seconds


@pytest.mark.parametrize("text", ["", "0d", "30", "30y", "-1d", "tomorrow", "2026-13-01", "٣d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """The sentence says what to write."""
    with pytest.raises(ConfigError, match="is no time: write 12h, 30d, 2027-01-31 or never"):
        moment(text, NOW)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--expires", "soon"], "--expires 'soon' is no time"),
        (["--limit", "60"], "--limit '60' is no limit: write it like --limit requests_per_minute=60"),
        (["--limit", "concurrency=-1"], "--limit 'concurrency=-1' is no limit"),
        (["--limit", "concurrency=0"], "from 1 on"),
        (["--limit", "request_per_minute=5"], "did you mean requests_per_minute"),
        (["--limit", "foo=1"], "known: concurrency, requests_per_minute, tokens_per_minute"),
        (["--priority", "first"], "Invalid value for '--priority'"),
    ],
)
def test_a_wrong_option_asks_nobody(keeper: Keeper, queen: StandIn, typed: list[str], said: str) -> None:
    """One sentence, before the queen is called."""
    status, out, err = keeper("keys", "create", "bob", *typed)
    assert (status, out, queen.calls) == (2, "", [])
    assert said in err


def test_keys_are_listed_with_what_they_may(keeper: Keeper) -> None:
    """Limits in words, times as times; `--json` is what the queen said."""
    out = keeper("keys", "list")[1]
    for word in ("abcdefgh", "me", "infer", "4 at a time, 9000 tokens/min", "batch", "2027-01-1", "2026-09-2"):
        assert word in out
    assert json.loads(keeper("keys", "list", "--json")[1]) == TABLES["keys"]


def test_an_expired_key_is_called_that(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a time that a reader would have to compare."""
    monkeypatch.setitem(TABLES, "keys", [{**TABLES["keys"][0], "expired": True}])
    assert "expired" in keeper("keys", "list")[1]


def test_a_key_is_revoked(keeper: Keeper, queen: StandIn) -> None:
    """By its id."""
    assert keeper("keys", "revoke", "abcdefgh")[:2] == (0, "key abcdefgh is revoked\n")
    assert queen.calls == ["DELETE /api/v1/keys/abcdefgh"]


def test_usage_is_shown_by_key_model_and_day(keeper: Keeper, queen: StandIn) -> None:
    """With every number, and with `--json` the same facts."""
    heading, row = keeper("usage")[1].splitlines()
    assert " ".join(heading.split()) == "DAY KEY NAME MODEL REQUESTS PROMPT TOKENS ANSWER TOKENS ERRORS ESTIMATED"
    assert row.split() == ["2026-11-30", "abcdefgh", "me", "toy", "7", "71", "72", "1", "0"]
    assert json.loads(keeper("usage", "--json")[1]) == TABLES["usage"]


def test_usage_is_asked_for_what_was_typed(keeper: Keeper, queen: StandIn) -> None:
    """Only that, whatever signs it holds."""
    keeper("usage", "--key", "a&b", "--model", "x/y", "--since", "2026-11-01", "--until", "2026-11-30")
    assert queen.queries[-1] == {"key": "a&b", "model": "x/y", "since": "2026-11-01", "until": "2026-11-30"}
    keeper("usage")
    assert queen.queries[-1] == {}


@pytest.mark.parametrize("typed", [("--since", "tomorrow"), ("--until", "2026-13-01")])
def test_a_wrong_day_asks_nobody(keeper: Keeper, queen: StandIn, typed: tuple[str, str]) -> None:
    """One sentence with the form of a day, before the queen is called."""
    status, out, err = keeper("usage", *typed)
    assert (status, out, queen.calls) == (2, "", [])
    assert f"{typed[0]} {typed[1]!r} is no day: write it like 2026-11-30" in err
