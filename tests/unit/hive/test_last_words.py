"""What a worker said about its own end."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from rbee_runtime.errors import LauncherError
from rbee_runtime.hive import exits
from rbee_runtime.hive.last_words import LONGEST, LastWords, sentence
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.records import Records, WorkerRecord
from tests.faults.rig import Clock, ScriptedLauncher

LOG = """\
level event=loading
rbee-worker: an older sentence
rbee-worker: an option of engine fake is wrong: tokens
rbee-worker@w.service: Main process exited, code=exited, status=64/USAGE
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LOG, "an option of engine fake is wrong: tokens"),
        ("no worker wrote this\n  rbee-worker: nor this", ""),
        ("", ""),
        ("rbee-worker: a\tb\x1b[31m c", "a b [31m c"),
        ("rbee-worker: " + "x" * 5000, "x" * (LONGEST - 1) + "…"),
    ],
    ids=["among others", "no prefix", "no log", "control characters", "far too long"],
)
def test_one_bounded_sentence_is_taken_from_a_log(text: str, said: str) -> None:
    """The last line with the worker's prefix counts, as one printable line of at most 300 characters."""
    assert sentence(text) == said


class Log(ScriptedLauncher):
    """A launcher with one log, which counts how often it is read."""

    text = LOG
    reads = 0

    async def logs(self, worker: str, lines: int) -> str:
        self.reads += 1
        if not self.text:
            raise LauncherError("the journal shows nothing")
        return self.text


def ended(**how: object) -> WorkerRecord:
    status = UnitStatus("w", Phase.ENDED, **how)  # type: ignore[arg-type]
    return exits.noted(WorkerRecord(id="w", launched=1.0), status, now=5.0)


async def heard(folder: Path, record: WorkerRecord, log: Log, *, looks: int = 2) -> WorkerRecord:
    """Return the record after some looks at it."""
    held = Records(folder)
    held.put(record)
    words = LastWords(log, held, changed=lambda: None, settle=0.0)
    for _ in range(looks):
        words.tick({worker: held[worker] for worker in held})
        await asyncio.gather(*words._tasks)
    return Records(folder)["w"]


@pytest.mark.parametrize("status", [64, 65, 69, 70, 71, 74, 98])
async def test_the_sentence_is_kept_with_the_record(tmp_path: Path, status: int) -> None:
    """Each status of the worker's own gets its sentence, once, and the next hive knows it too."""
    log = Log(Clock())
    record = await heard(tmp_path, ended(exit_status=status), log, looks=3)
    assert record.said == f"an option of engine fake is wrong: tokens (exit status {status})"
    assert log.reads == 1


@pytest.mark.parametrize(
    "how", [{"exit_signal": 9}, {"exit_status": 0}, {"exit_status": 1}, {"exit_status": 137}, {"out_of_memory": True}]
)
async def test_an_end_without_a_word_gets_no_older_sentence(tmp_path: Path, how: dict[str, object]) -> None:
    """Signals, the kernel and an interpreter that fell over leave what the hive found itself."""
    log, before = Log(Clock()), ended(**how)
    assert (await heard(tmp_path, before, log), log.reads) == (before, 0)


async def test_a_log_that_cannot_be_read_costs_nothing(tmp_path: Path) -> None:
    """The bare status stays, and the log is not asked for again and again."""
    log = Log(Clock())
    log.text = ""
    record = await heard(tmp_path, ended(exit_status=64), log, looks=5)
    assert (record.said, log.reads) == ("exit status 64", 1)


async def test_a_later_end_is_not_overwritten(tmp_path: Path) -> None:
    """The sentence of one end does not get onto the record of the next one."""
    held, log = Records(tmp_path), Log(Clock())
    first = ended(exit_status=64)
    held.put(first)
    words = LastWords(log, held, changed=lambda: None, settle=0.0)
    words.tick({"w": first})
    later = exits.noted(
        msgspec.structs.replace(first, launched=6.0), UnitStatus("w", Phase.ENDED, exit_signal=9), now=7.0
    )
    held.put(later)
    await asyncio.gather(*words._tasks)
    assert held["w"] == later
