"""The registry of preflight: what each check says of itself, that each can speak, and the page made of them."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy import checks_page
from rbee_deploy.engine_builds import BUILDS
from rbee_deploy.inventory import host, simulated
from rbee_deploy.preflight import CHECKS, HostFacts, Problem, Severity, Trust, check, unreachable
from rbee_deploy.preflight.room import ENGINE_ARCHITECTURES
from rbee_deploy.site import Host, Site
from tests.unit.deploy.check_cases import TRIGGERS
from tests.unit.deploy.made_up_hosts import (
    CA,
    CACHE,
    CARD,
    GUARD,
    HOME_LABEL,
    HOOK,
    LATER,
    MIG,
    NAS,
    NFS_LABEL,
    RULES,
    SOON,
    SPEC,
    UUID,
    Trigger,
    contained,
    housed,
    in_docker,
    labelled,
    networks,
    silent,
)
from tests.unit.deploy.sites import site_of
from tests.unit.deploy.test_preflight import GOOD, NOW

PAGE = Path(__file__).parents[3] / "docs" / "checks.md"
CASES = [(name, trigger) for name, triggers in TRIGGERS.items() for trigger in triggers]


def far_hive(of_queen: dict[str, Any], **declared: Any) -> Site:
    """Return a fleet of a queen and a hive elsewhere."""
    queen = host("queen", address="192.0.2.1", queen=True, hive=False, **of_queen)
    return replace(site_of(queen, host("gpu1", address="192.0.2.2", **declared)), secrets_dir="/home/me/secrets")


def found(trigger: Trigger) -> tuple[Problem, ...]:
    site = far_hive(trigger.queen, **trigger.declared)
    facts = HostFacts.parse({**GOOD, **trigger.facts})
    return check(
        site,
        trigger.changed(site.queen if trigger.on_queen else site.hives[0]),
        facts,
        NOW,
        trigger.needs,
        trust=trigger.trust,
    )


@pytest.mark.parametrize(("name", "trigger"), CASES, ids=[f"{name}-{index}" for index, (name, _) in enumerate(CASES)])
def test_a_check_says_what_is_wrong_and_what_to_do(name: str, trigger: Trigger) -> None:
    """The check alone speaks, in one sentence, and is fatal or a hint as the registry says."""
    (problem,) = found(trigger)
    assert problem.check == name
    assert f"{problem.cause}; {problem.fix}".startswith(trigger.says)
    assert problem.fatal == (next(item for item in CHECKS if item.id == name).severity is Severity.FATAL)


@pytest.mark.parametrize(
    ("facts", "changed"),
    [
        (networks("netavark", "1.7.0"), contained),
        (networks("netavark", "1.10.3"), contained),
        (networks("netavark", "2.1.0"), housed),
        ({"programs": {"podman": "5.4.2"}, "engine": ["answers"]}, contained),
        ({**networks("netavark", "1.4.0"), "programs": {"docker": "28.0"}}, in_docker),
        (networks("netavark", "1.4.0"), lambda declared: replace(housed(declared), hive=False)),
        (silent(), lambda declared: replace(housed(declared), hive=False)),
    ],
    ids=["the oldest", "by number", "newer", "not asked yet", "Docker", "no workers", "no answer for no workers"],
)
def test_a_network_that_is_closed_is_not_complained_of(facts: dict[str, Any], changed: Callable[[Host], Host]) -> None:
    """Nor what nobody has asked yet, nor what makes no network of workers."""
    assert found(Trigger("", facts, changed=changed)) == ()


def test_an_old_podman_is_told_once() -> None:
    """It cannot say which netavark it has, and that is not complained of as well."""
    (problem,) = found(Trigger("", {**networks("", ""), "programs": {"podman": "4.5.1"}}, changed=contained))
    assert problem.check == "podman-version"


def test_a_podman_that_is_slow_to_tell_of_itself_may_not_be_later() -> None:
    """That alone is said to pass: what else bars containers is there a minute later as well."""
    problems = [problem for trigger in TRIGGERS["podman-info"] for problem in found(trigger)]
    assert [problem.passes for problem in problems] == [True] * len(TRIGGERS["podman-info"])
    assert not any(problem.passes for name, trigger in CASES if name != "podman-info" for problem in found(trigger))


def test_every_check_is_seen_to_speak() -> None:
    """A check without a case above is not in the registry, but for SSH, which speaks before there is a host."""
    ssh = unreachable(host("box1", address="192.0.2.1", queen=True), "no answer")
    assert [item.id for item in CHECKS] == [ssh.check, *TRIGGERS]


QUIET: dict[str, Trigger] = {
    "made-up devices": Trigger(
        "", {"nvidia": {"cards": ["0000:01:00.0"]}}, {"devices": [simulated("gpu0", memory="8 GiB")]}
    ),
    "an ARM host without engines": Trigger("", {"arch": "aarch64", "cpu_baseline": None}, {"engines": []}),
    "a driver that does not say its version": Trigger("", {"nvidia": {**CARD, "module": ""}, "cdi": [SPEC]}),
    "cards that are divided": Trigger(
        "", {"nvidia": {**CARD, "uuids": [UUID]}, "cdi": [{**SPEC, "names": [MIG, "all"]}]}, {}, housed
    ),
    "a hive beside containers, which needs no name for all cards": Trigger(
        "", {"nvidia": {**CARD, "uuids": [UUID]}, "cdi": [{**SPEC, "names": [UUID]}]}, {}, contained
    ),
    "Docker that gives cards by NVIDIA's runtime": Trigger(
        "",
        {"nvidia": CARD, "cdi": [SPEC], "programs": {"docker": "26.1", HOOK: ""}, "engine": ["answers"]},
        {},
        in_docker,
    ),
    "Docker that knows CDI": Trigger(
        "", {"nvidia": CARD, "cdi": [SPEC], "programs": {"docker": "26.1"}, "engine": ["answers", "cdi"]}, {}, in_docker
    ),
    "a name instead of an address": Trigger("", {"addresses": ["10.0.0.1"]}, {"advertise": "gpu1.lan"}),
    "its own address in another spelling": Trigger("", {"addresses": ["2001:db8::1"]}, {"advertise": "2001:DB8:0::1"}),
    "runtimes with the fixes": Trigger(
        "", {"programs": {"docker": "28.0", "crun": "1.30", "runc": "1.4.0"}}, {}, in_docker
    ),
    "old container tools that nothing uses": Trigger(
        "", {"programs": {"podman": "4.3.1", "crun": "1.8", "runc": "1.1"}}
    ),
    "Podman that setup installs": Trigger("", {}, {}, contained),
    "no polkit where the hive starts no units": Trigger(
        "", {"polkit": False, "os_id": "arch", "programs": {"podman": "5.4"}}, {}, contained
    ),
    "a queen that nobody could ask about": Trigger("", {"queen_link": ""}),
    "nftables that setup installs": Trigger("", {"firewall": {**GUARD, "tool": False}}, {"firewall": "nftables"}),
    "nftables that setup installs for containers": Trigger(
        "", {"worker_rules": {**RULES, "tool": False}}, {}, contained
    ),
    "a policy of SELinux that is only tried out": Trigger(
        "", labelled({CACHE: HOME_LABEL}, enforcing=False), {}, contained
    ),
    "labels that workers may read": Trigger(
        "",
        labelled(
            {
                CACHE: "system_u:object_r:container_ro_file_t:s0",
                "/data": "system_u:object_r:container_file_t",
                "/mnt/fuse": "system_u:object_r:fusefs_t:s0",
                "/opt/models": "system_u:object_r:usr_t:s0",
            }
        ),
        {},
        contained,
    ),
    "a network's disk whose switch is on": Trigger("", labelled({NAS: NFS_LABEL}, "virt_use_nfs"), {}, contained),
    "a folder of which no label is known": Trigger("", labelled({CACHE: "", NAS: "unlabeled"}), {}, contained),
    "labels where workers are processes": Trigger("", labelled({CACHE: HOME_LABEL})),
    "our own authority": Trigger("", {"paths": {CA: {"sha256": "ours"}}, "contents": ["ours"]}),
    "our own authority, changed by hand on the host": Trigger(
        "", {"paths": {CA: {"sha256": "by hand"}}, "contents": ["ours"]}
    ),
    "a host that trusts nobody any more": Trigger("", {"paths": {CA: {"kind": ""}}, "contents": ["theirs"]}),
    "another authority that the operator said is to go": Trigger(
        "", {"paths": {CA: {"sha256": "theirs"}}, "contents": ["theirs"]}, trust=Trust("")
    ),
    "certificates that last": Trigger("", trust=Trust("ours", ends=LATER, own_ends=LATER), on_queen=True),
    "an authority's end, of which the queen's host speaks": Trigger("", trust=Trust("ours", ends=SOON)),
    "a models_dir whose name only begins alike": Trigger("", {}, {"models_dir": "/opt/rbee-models"}),
}


@pytest.mark.parametrize("case", QUIET)
def test_what_does_not_matter_is_not_said(case: str) -> None:
    """Hosts get no sentence about what they do not use, and none for what is right in another form."""
    assert found(QUIET[case]) == ()


def test_each_check_explains_itself() -> None:
    """Ids are unique and kebab-case, and every text is there, a part of a sentence."""
    assert len({item.id for item in CHECKS}) == len(CHECKS)
    for item in CHECKS:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", item.id)
        for text in (item.title, item.looks_at, item.fails_when, item.why, item.fix):
            assert text.strip() == text != ""
            assert not text.endswith(".")


def test_the_page_is_what_the_checks_say() -> None:
    """docs/checks.md is made from the registry; a change of either alone fails here."""
    assert PAGE.read_text() == checks_page.page(), "run python -m rbee_deploy.checks_page >docs/checks.md"


def test_architectures_of_engines_are_those_of_their_builds() -> None:
    """What preflight refuses is what cannot be built."""
    builds = {name: {build.arch for (built, _), build in BUILDS.items() if built == name} for name, _ in BUILDS}
    assert {name: set(arches) for name, arches in ENGINE_ARCHITECTURES.items()} == builds
