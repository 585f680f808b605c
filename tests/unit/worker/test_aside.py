"""Calls that nobody can stop."""

import threading
import time

import pytest

from rbee_runtime.worker.engines.llamacpp.aside import Aside, Call

SECONDS = 10.0
"""More than anything here takes."""


def busy(until: threading.Event) -> str:
    """Take a processor."""
    while not until.is_set():
        sum(range(1000))
    return "over"


def running(aside: Aside, enough: threading.Event) -> Call[str]:
    """Return a call that runs until then."""
    call = aside.ask(lambda: busy(enough))
    while call.waiting:
        time.sleep(0.001)
    return call


def test_a_call_returns_and_raises_as_it_would_here() -> None:
    """In another thread, which is the same for one after the other."""
    aside = Aside(3)
    found = set()
    for _ in range(20):
        call = aside.ask(threading.get_ident)
        assert call.wait(SECONDS)
        found.add(call.result)
    assert len(found - {threading.get_ident()}) == len(found) == 1
    broken = aside.ask(lambda: 1 // 0)
    assert broken.wait(SECONDS)
    with pytest.raises(ZeroDivisionError):
        _ = broken.result
    assert not aside.stuck


def test_a_call_that_is_left_takes_its_thread_until_it_ends() -> None:
    """Others have the other threads, wait when there is none left, and whoever left it hears of the end."""
    aside, enough, ended = Aside(2), threading.Event(), threading.Event()
    first = running(aside, enough)
    assert (first.over, aside.stuck) == (False, [])
    assert first.leave(ended.set)
    assert len(aside.stuck) == 1
    beside = aside.ask(lambda: 5)
    assert beside.wait(SECONDS)
    second = running(aside, enough)
    assert second.leave(lambda: None)
    former, latter = aside.stuck
    assert former > latter > 0
    behind = aside.ask(lambda: 6)
    assert not behind.wait(0.05)
    assert behind.waiting
    assert not ended.is_set()
    enough.set()
    assert behind.wait(SECONDS)
    assert (beside.result, behind.result) == (5, 6)
    assert ended.wait(SECONDS)
    assert second.wait(SECONDS)
    assert not aside.stuck


def test_a_call_that_waits_is_not_begun_once_it_is_left() -> None:
    """Whoever left it hears of that all the same, and it takes no thread."""
    aside, enough, ended, begun = Aside(1), threading.Event(), threading.Event(), threading.Event()
    running(aside, enough)
    waits = aside.ask(begun.set)
    assert waits.leave(ended.set)
    assert not aside.stuck
    enough.set()
    assert ended.wait(SECONDS)
    assert not begun.is_set()


def test_a_call_that_is_over_is_not_left() -> None:
    """Then the one who asked has what came of it, and nobody else does."""
    call = Aside(1).ask(lambda: 5)
    assert call.wait(SECONDS)
    assert not call.leave(lambda: pytest.fail("nobody left it"))
    assert (call.left, call.result) == (False, 5)


def test_what_counts_is_a_processor_s_time() -> None:
    """A call that waits takes none, however busy the machine is."""
    aside, enough = Aside(2), threading.Event()
    sleeper = aside.ask(lambda: time.sleep(0.3))
    worker = running(aside, enough)
    assert sleeper.wait(SECONDS)
    while worker.seconds < 0.2:
        assert not worker.wait(0.01)
    enough.set()
    assert sleeper.seconds < 0.1
