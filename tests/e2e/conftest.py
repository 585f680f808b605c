"""One deployed fleet for the tests of this folder; each test leaves it as it found it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fleets import Fleet, small_fleet

HF_TOKEN = "hf_e2eCanaryOfTheSharedFleet"
SLOW = {"name": "slow", "source": "fake:tokens_per_s=20,slots=4,tokens=120", "slots": 4}


@pytest.fixture(scope="session")
def deployed(smol_model: Path) -> Iterator[Fleet]:
    """Give a queen and one GPU host, deployed, with a real model and a scripted one."""
    with small_fleet("e2e") as fleet:
        fleet.environment["E2E_HF_TOKEN"] = HF_TOKEN
        fleet.options["hf_token"] = "E2E_HF_TOKEN"
        fleet.models["smol"] = {
            "name": "smol",
            "source": f"file:{smol_model}",
            "replicas": "each_host",
            "context": 2048,
        }
        fleet.models["slow"] = {**SLOW, "replicas": 2}
        fleet.deploy()
        fleet.wait_ready("smol")
        fleet.wait_ready("slow", 2)
        yield fleet
