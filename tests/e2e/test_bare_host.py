"""A host of a bare distribution: what its modes need is installed by the same apply that makes it serve."""

from collections.abc import Iterator

import pytest

from rbee_deploy import packages, report
from tests.e2e.fleets import Fleet
from tests.e2e.test_changes import changes
from tests.facts.test_on_hosts import PURGE, read
from tests.lab import Lab

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def bare() -> Iterator[Fleet]:
    """Give one undeployed host, queen and hive, that reaches package sources and has neither Python nor polkit."""
    with Lab.create("bare") as lab:
        fleet = Fleet(lab)
        fleet.models["echo"] = {"name": "echo", "source": "fake:tokens=3"}
        fleet.declare(lab.add_host("box", image="bookworm", online=True), queen=True, hive=True, engines=[])
        fleet.queen.run(PURGE, check=False)
        yield fleet
        fleet.close()


def test_one_apply_makes_it_serve(bare: Fleet) -> None:
    """Python and polkit are missing before and there after it, the worker answers, and a second run changes nothing."""
    assert packages.missing(read(bare.queen, bare.queen)) == ("polkitd", "python3")
    done = bare.rbee_deploy("apply", "--json")
    assert done.code == 0, done.errors
    assert f"setup{report.separator()}install packages" in changes(done)["box"]
    assert packages.missing(read(bare.queen, bare.queen)) == ()
    bare.wait_ready("echo")
    answer = bare.client().chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content
    assert changes(bare.rbee_deploy("apply", "--json")) == {}
