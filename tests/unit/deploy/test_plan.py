"""What a run says of models that hosts fetch themselves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbee_deploy import plan, questions, report
from rbee_deploy.artefacts import Artefact
from rbee_deploy.inventory import each_host, host, model, store
from rbee_deploy.observed import Observed
from rbee_deploy.operations.root import DIFFERENCES, FETCHES
from rbee_runtime.models.references import identity
from tests.unit.deploy.sites import site_of

SOURCE = "https://models.example/bee.gguf?sig=secret"
HELD = {"slug": "bee", "name": "bee", "source": identity(SOURCE)}


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ([], ["bee from https://models.example/bee.gguf?***"]),
        ([HELD], []),
        ([{**HELD, "source": SOURCE}], []),
        ([{**HELD, "source": "https://models.example/old.gguf"}], ["bee from https://models.example/bee.gguf?***"]),
    ],
)
def test_what_a_hive_fetches_is_what_it_lacks(there: list[dict[str, Any]], said: list[str]) -> None:
    """Only hosts that may serve a model fetch it, only if they lack it, and no signature of its address is shown."""
    bee = model("bee", source=SOURCE, hosts=["g"])
    site = site_of(host("q", address="192.0.2.1", queen=True), host("g"), models=(bee,))
    facts = Observed.parse({"models": there})
    assert [plan.fetched(site, item, facts) for item in site.hosts] == [[], said]


@pytest.mark.parametrize(("engines", "least"), [((), ""), (("2.34",), "2.34"), (("2.4", "2.38", "2.34"), "2.38")])
def test_a_host_needs_the_newest_glibc_of_its_engines(engines: tuple[str, ...], least: str) -> None:
    """Compared by number, whether or not the engine is there already; none where the host gets no engine."""
    made = [Artefact(id=f"e{each}", archive=Path("e"), sha256="ab" * 32, size=1, glibc=each) for each in ("", *engines)]
    wanted = plan.HostPlan(release=made[0], uv=made[0], engines=tuple(made[1:]), models=(), files=())
    assert plan.needs(wanted, Observed.parse({"engines": ["e2.38"]})).engine_glibc == least


def test_a_host_that_is_offline_gets_models_from_others() -> None:
    """The plan does not promise a connection that the host's store forbids."""
    box = host("q", address="192.0.2.1", queen=True, store=store(offline=True))
    site = site_of(box, models=(model("bee", source=SOURCE),))
    assert plan.fetched(site, box, Observed.parse({})) == ["bee from other hives"]


AHEAD: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "one that is on every host": ({"replicas": each_host}, False, True),
    "as many as there are hosts": ({"replicas": 2}, False, True),
    "fewer than there are hosts": ({"replicas": 1}, False, False),
    "fewer, on one host that is named": ({"replicas": 1, "hosts": ["g"]}, False, True),
    "what the inventory wants ahead": ({"replicas": 1, "preseed": True}, True, True),
    "what it does not": ({"replicas": each_host, "preseed": False}, False, False),
}
"""Fields of a model, and whether apply and preseed have a host of two fetch it."""


@pytest.mark.parametrize("case", AHEAD)
def test_what_is_fetched_ahead_is_what_is_sure_to_run(case: str) -> None:
    """A deploy fetches what the inventory says; a pre-seed also what surely runs there, and nothing that may not."""
    fields, by_apply, by_preseed = AHEAD[case]
    site = site_of(
        host("q", address="192.0.2.1", queen=True), host("g"), models=(model("bee", source=SOURCE, **fields),)
    )
    lacks = Observed.parse({"models": []})
    found = [[spec.name for spec in plan.ahead(site, site.hosts[1], lacks, every=every)] for every in (False, True)]
    assert found == [["bee"] * by_apply, ["bee"] * by_preseed]
    has = Observed.parse({"models": [{"name": "bee", "source": SOURCE}]})
    assert plan.ahead(site, site.hosts[1], has, every=True) == []


def test_an_offline_host_fetches_nothing_ahead() -> None:
    """Its store may only copy from other hives, and their queen is who knows them."""
    box = host("q", address="192.0.2.1", queen=True, store=store(offline=True))
    site = site_of(box, models=(model("bee", source=SOURCE, preseed=True),))
    assert plan.ahead(site, box, Observed.parse({}), every=True) == []


def test_a_dry_run_shows_what_hives_will_fetch() -> None:
    """The plan has a line for it, also when nothing else would change."""
    box = SimpleNamespace(name="box1", connector_data={DIFFERENCES: [], FETCHES: ["bee from hf:acme/bee"]})
    state = SimpleNamespace(
        rbee_recorder=None,
        is_executing=False,
        inventory=[box],
        is_host_in_limit=lambda _: True,
        activated_hosts={"box1": box}.values(),
        get_op_order=list,
        op_meta={},
    )
    shown = [" ".join(line.split()) for line in report.text(state)]
    assert "box1 its hive fetches bee from hf:acme/bee" in shown


def test_a_host_is_asked_about_the_way_to_its_models(tmp_path: Path) -> None:
    """Preflight can say which part of the path is no folder, for every part of it is looked at."""
    box = host("q", address="192.0.2.1", queen=True, models_dir="/srv/big/models")
    site = site_of(box, secrets_dir=str(tmp_path))
    asked = questions.about(site, box, plan.Workshop(site).paths(box), password=False)
    assert {"/srv", "/srv/big", "/srv/big/models"} <= set(asked.paths)
    assert "/" not in asked.paths
