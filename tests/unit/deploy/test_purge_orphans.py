"""What a purge of lost hosts forgets: only those of which it is known that nothing of rbee is left there."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from rbee_deploy import interrupt, remembered
from rbee_deploy.cli import purging, running
from rbee_deploy.inventory import host
from rbee_deploy.operations import ask
from tests.unit.deploy.sites import site_of

QUEEN = host("box1", address="192.0.2.1", queen=True)
LOST = tuple(host(f"gpu{number}", address=f"192.0.2.1{number}") for number in (1, 2))


@pytest.fixture
def typed(tmp_path: Path) -> argparse.Namespace:
    """Return `purge --orphans --yes` on a fleet that lost two hosts."""
    (tmp_path / "hosts").mkdir()
    site = site_of(QUEEN, secrets_dir=tmp_path)
    for declared in LOST:
        remembered.remember(site, declared, activated=declared.name == "gpu1")
    return argparse.Namespace(
        site=site,
        inventory="x.py",
        orphans=True,
        hosts=[],
        all=False,
        models=False,
        yes=True,
        document=True,
        told={},
        advice=[],
    )


def answer(succeeds: bool) -> Callable[..., Any]:
    """Return a connection on which a script ends well or not."""
    return lambda *_, **__: (succeeds, SimpleNamespace(stdout_lines=["said"], stderr_lines=[]))


def never(*_: object, **__: object) -> Any:
    """Be a connection on which a script was cut off: what waits for it is killed."""
    raise gevent.GreenletExit


class Asked:
    """A host of a run, as pyinfra has it."""

    def __init__(self, run: Callable[..., Any] | None) -> None:
        self.connector_data: dict[str, Any] = {}
        self.connector = SimpleNamespace(run_shell_command=run)
        self.state = SimpleNamespace(failed_hosts=set())


def ran(monkeypatch: pytest.MonkeyPatch, status: int, **answers: Callable[..., Any] | None) -> None:
    """Have a run end so, which asked each of these hosts by its connection; None is one that was only looked at."""
    heres = []
    for name, run in answers.items():
        at = Asked(run)
        if run is not None:
            command: Any = SimpleNamespace(connector_arguments={})
            gevent.spawn(ask._ask, None, at, command).join()
        heres.append(SimpleNamespace(declared=SimpleNamespace(name=name), host=at))
    monkeypatch.setattr(running, "go", lambda *_, **__: status)
    monkeypatch.setattr(running, "hosts", lambda: iter(heres))


def noted(typed: argparse.Namespace) -> list[str]:
    """Return the hosts of which a note is left."""
    return sorted(path.parent.name for path in (typed.site.secrets / "hosts").glob("*/connection.json"))


@pytest.mark.parametrize(
    ("status", "answers", "kept"),
    [
        (0, {"gpu1": answer(True), "gpu2": answer(True)}, []),
        (1, {"gpu1": answer(True), "gpu2": answer(False)}, ["gpu2"]),
        (1, {"gpu1": answer(True), "gpu2": None}, ["gpu2"]),
        (1, {"gpu1": answer(True)}, ["gpu2"]),
        (1, {"gpu1": never, "gpu2": None}, ["gpu1", "gpu2"]),
        (1, {}, ["gpu1", "gpu2"]),
    ],
    ids=["both purged", "one refused", "one only looked at", "one not reached", "cut off", "never begun"],
)
def test_a_host_is_forgotten_once_it_is_known_to_be_purged(
    status: int,
    answers: dict[str, Any],
    kept: list[str],
    typed: argparse.Namespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However a run ends, the only record of a host that still has rbee stays, and the advice names such hosts."""
    ran(monkeypatch, status, **answers)
    assert purging._purge(typed) == status
    assert noted(typed) == kept
    folder = typed.site.secrets / "hosts"
    assert typed.advice == ([f"if {' or '.join(kept)} is no more, delete its folder in {folder}"] if kept else [])


def test_ctrl_c_forgets_no_host(typed: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interrupt all notes stay, for the same command to find each host again."""
    ran(monkeypatch, 1, gpu1=answer(True), gpu2=None)
    monkeypatch.setattr(interrupt, "happened", lambda: True)
    assert purging._purge(typed) == 1
    assert noted(typed) == ["gpu1", "gpu2"]


def test_an_answer_of_before_does_not_stand_for_a_script_that_was_cut_off() -> None:
    """A host whose last script nobody saw the end of has no mark, whatever an earlier one left."""
    at = SimpleNamespace(connector_data={ask.DONE: True}, connector=SimpleNamespace(run_shell_command=never))
    command: Any = SimpleNamespace(connector_arguments={})
    gevent.spawn(ask._ask, None, at, command).join()
    assert ask.DONE not in at.connector_data
