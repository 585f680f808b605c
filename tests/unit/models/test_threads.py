"""Threads of a store: a process that may start no more of them loses work, not the threads."""

import threading

import pytest

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.threads import Threads


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_without_a_thread_the_work_fails_and_the_next_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked is told what to do, and once there may be threads again there are."""
    threads = Threads(1, "test")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ModelStoreError, match="no thread for test: can't start new thread; raise TasksMax"):
            threads.submit(int).result(10)
    assert threads.submit(int).result(10) == 0


def test_threads_that_there_are_do_what_others_were_wanted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second thread that may not start costs time only."""
    threads, going = Threads(2, "test"), threading.Event()
    first = threads.submit(going.wait, 20)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    second = threads.submit(int)
    assert not second.done()
    going.set()
    assert (first.result(10), second.result(10)) == (True, 0)
