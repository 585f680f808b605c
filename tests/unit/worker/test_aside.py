"""Calls that nobody can stop."""

import threading
import time

import pytest

from rbee_runtime.worker.engines.llamacpp.aside import Aside


def busy(until: threading.Event) -> str:
    """Take a processor."""
    while not until.is_set():
        sum(range(1000))
    return "over"


def ended(aside: Aside) -> bool:
    """Wait until nothing is left to itself."""
    deadline = time.monotonic() + 10
    while aside.stuck and time.monotonic() < deadline:
        time.sleep(0.01)
    return aside.stuck == 0


def test_a_call_returns_and_raises_as_it_would_here() -> None:
    """One after the other, in the same thread."""
    aside = Aside(1.0)
    threads = {aside.run(threading.get_ident) for _ in range(20)}
    assert len(threads - {threading.get_ident()}) == len(threads) == 1
    with pytest.raises(ZeroDivisionError):
        aside.run(lambda: 1 // 0)
    assert aside.run(lambda: 5) == 5
    assert aside.stuck == 0


def test_a_call_that_takes_too_long_is_left_to_itself() -> None:
    """The next ones do not wait for it, and it is known how many there are until each has ended."""
    aside, enough = Aside(0.2), threading.Event()
    for count in (1, 2):
        with pytest.raises(TimeoutError):
            aside.run(lambda: busy(enough))
        assert aside.stuck == count
        assert aside.run(lambda: 5) == 5
    enough.set()
    assert ended(aside)
    assert aside.run(lambda: 6) == 6


def test_a_call_that_waits_for_a_processor_is_waited_for() -> None:
    """What counts is what it took, not how busy the machine is."""
    aside = Aside(0.2)
    aside.run(lambda: time.sleep(0.8))
    assert aside.stuck == 0
