"""Whole events out of arbitrary pieces."""

import random

import pytest

from rbee_runtime.gateway.events import Events

WHOLE = b'data: {"n":1}\n\n: note\n\ndata: {"n":2}\r\n\r\ndata: [DONE]\n\n'


@pytest.mark.parametrize("seed", range(20))
def test_any_cutting_gives_the_same_bytes_in_whole_events(seed: int) -> None:
    """However the pieces fall, what goes out ends with an event, and nothing is lost or changed."""
    dice = random.Random(seed)
    events, out, rest = Events(), b"", WHOLE
    while rest:
        size = dice.randint(1, 12)
        ready = events.feed(rest[:size])
        rest = rest[size:]
        assert not ready or ready.endswith((b"\n\n", b"\r\n\r\n"))
        out += ready
    assert out + events.rest() == WHOLE
    assert events.done


@pytest.mark.parametrize(
    ("stream", "done"),
    [
        (b"data: [DONE]\n\n", True),
        (b"data: [DONE]", True),
        (b"data: 1\n\ndata: [DONE]\r\n\r\n", True),
        (b'data: {"error":{}}\n\n', True),
        (b"data:[DONE]\n\n", True),
        (b"data: [DONE]\n\n: bye\n\n: bye\r\n\r\n", True),
        (b"data: 1\n\n: data: [DONE]\n\n", False),
        (b"data: [DONE]\n\ndata: 1\n\n", False),
        (b'data: {"x": "data: [DONE]"}\n\n', False),
        (b"", False),
    ],
)
def test_only_the_proper_end_counts(stream: bytes, done: bool) -> None:
    """A stream is complete if its last event is [DONE] or an error."""
    events = Events()
    events.feed(stream)
    assert events.done is done


def test_an_endless_event_is_not_held_for_ever() -> None:
    """Memory per stream stays bounded."""
    events = Events()
    out = sum(len(events.feed(b"data: " + b"x" * 10_000)) for _ in range(20))
    assert out >= 200_000 - 70_000


def test_a_long_last_event_is_the_last_one() -> None:
    """By how it began, although that went out long before its end."""
    events = Events()
    for piece in (b"event: response.completed\ndata: ", *[b"x" * 40_000] * 5):
        events.feed(piece)
    assert events.torn
    assert not events.feed(b"\n")
    events.feed(b"\n")
    assert (events.done, events.torn) == (True, False)
    events.feed(b"data: 1\n\n")
    assert not events.done


def test_a_comment_behind_the_end_changes_nothing() -> None:
    """It may come in a piece of its own."""
    events = Events()
    for piece in (b"data: [DONE]\n\n", b": bye\n\n"):
        events.feed(piece)
    assert events.done
