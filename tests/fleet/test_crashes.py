"""A defect of rbee or pyinfra meets a secret: what is printed and written about it does not show that."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.fleet.test_fleet import line

pytestmark = pytest.mark.slow

SECRETS = {"MADE_UP_PASSWORD": "canary-of-sudo-1414", "MADE_UP_TOKEN": "hf_canaryOfTheHub2718"}
GIVEN = {"sudo_password": "MADE_UP_PASSWORD", "hf_token": "MADE_UP_TOKEN"}
TALKATIVE = """
import sys
from unittest import mock
from rbee_deploy.main import main

def broken(*arguments, **named):
    raise RuntimeError(f"broken: {arguments} {named} {sys._getframe(1).f_locals}")

with mock.patch(sys.argv.pop(1), broken):
    main()
"""
"""Breaks a function: it raises what pyinfra and we do not expect, and tells all that it and its caller hold."""

BREAKS = {
    "before a host is asked": ("rbee_deploy.cli.rotating._at_the_queen", "rotate", "api-key"),
    "while a plan is made": ("rbee_deploy.api_keys.line", "apply"),
    "while a host is looked at": ("rbee_deploy.facts.memo.stdin", "apply"),
    "while files are brought": ("rbee_deploy.operations.activate.payload", "apply"),
    "while a command is put together": ("rbee_deploy.operations.root.as_root", "apply", "-v"),
}


@pytest.mark.parametrize("where", BREAKS)
def test_an_unexpected_exception_shows_no_secret(where: str, tmp_path: Path) -> None:
    """What it says of a Secret is asterisks, on the screen and in the file that pyinfra writes about it."""
    function, *words = BREAKS[where]
    command, environment = line(
        tmp_path / "secrets", *words, hosts=2, faults={"box2": "outdated"}, given=GIVEN, program=TALKATIVE
    )
    command.insert(command.index(TALKATIVE) + 1, function)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**environment, **SECRETS},
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    written = (path for path in tmp_path.rglob("*") if path.is_file() and tmp_path / "secrets" not in path.parents)
    shown = done.stdout + done.stderr + "".join(path.read_text() for path in written)
    assert "RuntimeError: broken: " in shown
    assert "********" in shown
    kept = [path.read_text() for path in (tmp_path / "secrets").rglob("*key*") if path.is_file()]
    hidden = [*SECRETS.values(), *(re.sub("-----.*-----", "", text).split()[0] for text in kept)]
    assert len(hidden) > len(SECRETS)
    assert [secret[:8] for secret in hidden if secret in shown] == []
