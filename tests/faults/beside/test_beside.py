"""The same faults put to the queen's program and, at full length, to vllm-router and LiteLLM. Figures: queen_rows.yaml.

What the others do is recorded and printed beside ours, and decides nothing: their promises are their own.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.beside.gateways import ABSENT, OTHERS, OURS, serving
from tests.faults.beside.probes import FAULTS, Held
from tests.faults.beside.workers import told
from tests.faults.rows import FULL, row

pytestmark = pytest.mark.slow

Figures = Callable[[str, object], None]


async def beside(name: str, folder: Path, record: Figures) -> None:
    """Put a row's fault to each gateway, with workers and a process of its own; fail if ours does not bear it."""
    for side in (OURS, *OTHERS) if FULL else (OURS,):
        fault, row_ = FAULTS[name], row(name, "queen")
        (folder / side).mkdir()
        try:
            async with told(fault.workers) as workers, serving(side, workers, fault.wants(row_), folder / side) as up:
                held = await fault.probe(up, row_)
        except ABSENT as error:
            if side is OURS:
                raise
            record(side.value, f"not there: {error}")
            continue
        except (AssertionError, TimeoutError) as error:
            held = Held(ok=False, said=str(error) or "no end")
        record(side.value, str(held))
        assert held.ok or side is not OURS, held.said


async def test_f1_a_killed_worker(tmp_path: Path, record_property: Figures) -> None:
    """Of F1 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F1", tmp_path, record_property)


async def test_f2_deaths_before_a_first_token(tmp_path: Path, record_property: Figures) -> None:
    """Of F2 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F2", tmp_path, record_property)


async def test_f3_no_other_worker(tmp_path: Path, record_property: Figures) -> None:
    """Of F3 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F3", tmp_path, record_property)


async def test_f4_what_is_no_answer(tmp_path: Path, record_property: Figures) -> None:
    """Of F4 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F4", tmp_path, record_property)


async def test_f5_silence(tmp_path: Path, record_property: Figures) -> None:
    """Of F5 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F5", tmp_path, record_property)


async def test_f6_a_trickle(tmp_path: Path, record_property: Figures) -> None:
    """Of F6 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F6", tmp_path, record_property)


async def test_f7_clients_that_leave(tmp_path: Path, record_property: Figures) -> None:
    """Of F7 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F7", tmp_path, record_property)


async def test_f8_slow_readers(tmp_path: Path, record_property: Figures) -> None:
    """Of F8 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F8", tmp_path, record_property)


async def test_f9_a_crowd(tmp_path: Path, record_property: Figures) -> None:
    """Of F9 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F9", tmp_path, record_property)


async def test_f10_an_end_that_is_asked_for(tmp_path: Path, record_property: Figures) -> None:
    """Of F10 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F10", tmp_path, record_property)


async def test_f12_everybody_refuses(tmp_path: Path, record_property: Figures) -> None:
    """Of F12 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F12", tmp_path, record_property)


async def test_f13_connections_that_come_and_go(tmp_path: Path, record_property: Figures) -> None:
    """Of F13 the queen keeps her promise, seen from outside; what others do stands beside it."""
    await beside("F13", tmp_path, record_property)
