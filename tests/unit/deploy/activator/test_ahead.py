"""Fetching ahead runs as the staged hive would: its settings and secrets, and nothing of the one in use."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.activator import ahead, blobs
from rbee_deploy.activator.manifest import File, Generation
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports

UNIT = """[Service]
User=rbee-hive
ReadWritePaths=/srv/models
ExecStart=/opt/rbee/current/bin/rbee-hive
WatchdogSec=30
LoadCredential=hive.key:{0}/hive.key
LoadCredential=hf-token:{0}/hf-token
"""


@pytest.fixture
def generation(root: Path) -> Generation:
    """Give a staged generation of a hive with a token."""
    assert root.is_dir()
    contents = {
        "/etc/systemd/system/rbee-hive.service": (UNIT.format(ports.CREDENTIALS), False),
        str(ports.ETC / "hive.yaml"): ("name: gpu1\n", False),
        str(ports.CREDENTIALS / "hive.key"): ("key", True),
        str(ports.CREDENTIALS / "hf-token"): ("hf_secret", True),
    }
    files = tuple(
        File(path, blobs.keep(text.encode(), secret=secret), "root", "root", "0600", secret=secret)
        for path, (text, secret) in contents.items()
    )
    return Generation("0.1.0-new", "0.1.0", files=files)


def test_settings_and_secrets_are_those_that_were_staged(generation: Generation) -> None:
    """Each credential of the staged unit comes from where contents are kept, the hive's settings beside them."""
    words = ahead.command(generation)
    loaded = dict(word.removeprefix("LoadCredential=").split(":") for word in words if word.startswith("LoadC"))
    assert {name: Path(path).read_text() for name, path in loaded.items()} == {
        "hive.yaml": "name: gpu1\n",
        "hive.key": "key",
        "hf-token": "hf_secret",
    }
    assert {"User=rbee-hive", "ReadWritePaths=/srv/models"} <= set(words)
    assert not [word for word in words if word.startswith(("ExecStart", "WatchdogSec"))]
    assert "hf_secret" not in " ".join(words)


@pytest.mark.parametrize(
    ("status", "said", "sentence"),
    [
        (1, b"cannot fetch m ahead: no such model\n", "cannot fetch m ahead: no such model"),
        (9, b"", "the models could not be fetched ahead (exit status 9)"),
    ],
)
def test_what_the_fetching_says_is_what_the_operator_reads(
    generation: Generation, monkeypatch: pytest.MonkeyPatch, status: int, said: bytes, sentence: str
) -> None:
    """A failure is told in the words of whoever fetched, and in a sentence where there are none."""
    given: list[Any] = []

    def run(_words: list[str], **named: Any) -> subprocess.CompletedProcess[bytes]:
        given.append(named["input"])
        return subprocess.CompletedProcess([], status, b"", said)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ActivationError, match="^" + sentence.replace("(", "\\(").replace(")", "\\)")):
        ahead.fetch(generation, b"[]")
    assert given == [b"[]"]
