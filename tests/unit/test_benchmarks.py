"""What the benchmarks refuse to measure."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import hive_idle, model_pull
from benchmarks.container import __main__ as container

READERS = {
    "container": container.read_options,
    "hive_idle": hive_idle.read_options,
    "model_pull": model_pull.read_options,
}


@pytest.mark.parametrize(
    ("bench", "line"),
    [
        ("model_pull", ["--mib", "-3"]),
        ("model_pull", ["--mib", "0"]),
        ("model_pull", ["--mib", "2049"]),
        ("hive_idle", ["--workers", "0"]),
        ("hive_idle", ["--workers", "401"]),
        ("hive_idle", ["--seconds", "0"]),
        ("hive_idle", ["--seconds", "nan"]),
        ("container", ["--rounds", "0"]),
        ("container", ["--rounds", "49"]),
        ("container", ["--most", "0"]),
        ("container", ["--threads", "0"]),
        ("container", ["--threads", "100000"]),
    ],
)
def test_a_size_that_cannot_be_measured_is_refused(
    bench: str, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A figure made of nothing would be believed."""
    read: Callable[[list[str]], object] = READERS[bench]
    with pytest.raises(SystemExit, match="2"):
        read(line)
    assert f"error: {' '.join(line)} is not between 1 and " in capsys.readouterr().err
    read([])


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named with the reason and the option."""
    assert model_pull.main(["--folder", str(tmp_path / "gone")]) == 1
    said = capsys.readouterr().err
    assert said == f"cannot measure in {tmp_path}/gone: No such file or directory; choose another --folder\n"
