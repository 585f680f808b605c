"""Commands that sentences advise: as they have to be typed."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

import argparse
from pathlib import Path

import pytest

from rbee_deploy import advised, cli

FLEET = """
from rbee_deploy.inventory import fleet, host
queen, hives = fleet("f", hosts=[host("q", address="192.0.2.1", queen=True)])
"""


def test_an_advised_command_names_the_inventory_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line was given is repeated, quoted for a shell; plain pyinfra's is not known."""
    monkeypatch.setattr(advised, "inventory", "")
    assert advised.command("apply") == "rbee-deploy apply -i INVENTORY"
    file, said = tmp_path / "our fleet.py", []
    file.write_text(FLEET)
    options = argparse.Namespace(inventory=str(file), limit=[], run=lambda _: said.append(advised.command("apply")))
    cli._run(options)
    assert said == [f"rbee-deploy apply -i '{file}'"]
