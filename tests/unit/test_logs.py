"""What is written down: one line for each event, without the keys that somebody put where none belong."""

import json
import logging
from collections.abc import Iterator

import pytest

from rbee_runtime import logs

KEY = "rbee_abcd1234_" + "S3cret" * 7


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"path=/api/v1/keys/{KEY}", "path=/api/v1/keys/rbee_abcd1234_***"),
        (f'model="{KEY} x"', 'model="rbee_abcd1234_*** x"'),
        ("token hf_" + "a" * 34, "token hf_***"),
        ("sk-proj-" + "b" * 40 + " y", "sk-*** y"),
        ("authorization: Bearer " + "c" * 30, "authorization: Bearer ***"),
        ("-----BEGIN EC PRIVATE KEY-----\\nMHcC\\n-----END EC PRIVATE KEY-----.", "-----BEGIN EC PRIVATE KEY-----***."),
        ("-----BEGIN PRIVATE KEY-----\nMHcC", "-----BEGIN PRIVATE KEY-----***"),
        ("send it as `Authorization: Bearer rbee_…`", "send it as `Authorization: Bearer rbee_…`"),
        ("key=abcd1234 user=rbee_queen task-1 hf_hub", "key=abcd1234 user=rbee_queen task-1 hf_hub"),
    ],
)
def test_keys_are_hidden(text: str, shown: str) -> None:
    """Of a key its kind, and of ours the id, is left; words that look alike stay."""
    assert logs.without_secrets(text) == shown


def test_nothing_gets_past(capsys: pytest.CaptureFixture[str]) -> None:
    """Events and lines that are stacked go the same way out."""
    logs.warning("x", why=KEY)
    stack = logs.Stack(lambda _seconds, _flush: None)
    stack.add(f"info event=request model={KEY}")
    stack.flush()
    assert capsys.readouterr().err == (
        "warning event=x why=rbee_abcd1234_***\ninfo event=request model=rbee_abcd1234_***\n"
    )


@pytest.fixture
def as_json() -> Iterator[None]:
    """Have lines be objects for the test, of one moment."""
    logs.write_as(logs.LogFormat.JSON, now=lambda: 1796083445.1234)
    yield
    logs.write_as(logs.LogFormat.LINES)


@pytest.mark.usefixtures("as_json")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"id": "w-1", "port": 9000, "ok": True}, {"id": "w-1", "port": 9000, "ok": True}),
        ({"ms": 1.23456, "none": None, "empty": ""}, {"ms": 1.235}),
        ({"share": float("nan"), "most": float("inf")}, {"share": "nan", "most": "inf"}),
        ({"why": 'says "no"\nand é'}, {"why": 'says "no"\nand é'}),
        ({"why": KEY}, {"why": "rbee_abcd1234_***"}),
        ({"why": "-----BEGIN PRIVATE KEY-----\nMHcC", "then": 1}, {"why": "-----BEGIN PRIVATE KEY-----***", "then": 1}),
        ({"time": "mine", "level": "mine"}, {}),
    ],
)
def test_a_line_is_an_object_where_that_is_wanted(
    capsys: pytest.CaptureFixture[str], given: dict[str, object], told: dict[str, object]
) -> None:
    """It has moment, level and event, whatever fields are called, and the fields as they are but for keys."""
    logs.warning("x", **given)
    (line,) = capsys.readouterr().err.splitlines()
    head = {"time": "2026-12-01T00:04:05.123Z", "level": "warning", "event": "x"}
    assert json.loads(line) == {**told, **head}


@pytest.mark.usefixtures("as_json")
def test_what_libraries_say_is_an_object_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback is one field of it."""
    logs.capture_libraries()
    try:
        int("of a library")
    except ValueError:
        logging.getLogger("other").exception("it failed")
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["logger"], told["message"]) == ("error", "other", "it failed")
    assert told["trace"].endswith("with base 10: 'of a library'")
