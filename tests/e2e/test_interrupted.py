"""The deploy command is interrupted; the same command again converges, and nothing stops serving in between."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fleets import ROOT, Fleet, small_fleet
from tests.e2e.streams import Asking
from tests.e2e.test_changes import changes

pytestmark = pytest.mark.lab

# Fractions of an undisturbed run at which it is killed; the seed makes a failure repeatable.
MOMENTS = sorted(random.Random(8500).uniform(0.05, 0.95) for _ in range(4))


def run_until(fleet: Fleet, seconds: float, with_signal: signal.Signals) -> None:
    """Start the deploy command and send it a signal after `seconds`, unless it has ended."""
    run = subprocess.Popen(
        fleet.command(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **fleet.environment},
    )
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, with_signal)
        run.wait(120)


@pytest.fixture(scope="module")
def fresh(smol_model: Path) -> Iterator[Fleet]:
    """Give two hosts that were never deployed."""
    with small_fleet("cut") as fleet:
        fleet.models["smol"] = {"name": "smol", "source": f"file:{smol_model}", "context": 1024}
        fleet.models["slow"] = {"name": "slow", "source": "fake:slots=4"}
        yield fleet


def test_a_killed_first_deploy_is_finished_by_the_next(fresh: Fleet) -> None:
    """Killed at several moments of its first run, the command converges when it is let through."""
    for seconds in (2.0, 5.0, 9.0, 14.0):
        run_until(fresh, seconds, signal.SIGKILL)
    fresh.deploy()
    fresh.wait_ready("smol")
    assert changes(fresh.deploy("--json")) == {}


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGKILL], ids=lambda item: item.name)
def test_an_interrupted_change_loses_no_service(fresh: Fleet, with_signal: signal.Signals) -> None:
    """While a change is interrupted again and again, every request is answered; then it converges."""
    fresh.deploy()
    fresh.wait_ready("slow")
    begun = time.monotonic()
    fresh.deploy()
    length = time.monotonic() - begun
    fresh.options["drain_seconds"] = 120 + with_signal
    with Asking(fresh) as asking:
        for moment in MOMENTS:
            run_until(fresh, moment * length, with_signal)
        fresh.deploy()
    assert asking.failures == []
    assert changes(fresh.deploy("--json")) == {}
