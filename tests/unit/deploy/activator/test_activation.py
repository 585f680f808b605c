"""Going over to a generation: done, or everything as before; killed anywhere, the next run goes on from there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_deploy.activator import activation, blobs, places, units
from rbee_deploy.activator.activation import STEPS, Activation, BrokenError, Told
from rbee_deploy.activator.units import ActivationError, Unit
from rbee_runtime import ports
from tests.unit.deploy.activator.conftest import HELPERS, FakeSystemd, staged, state, tree

ME = Told(by="anna@desk", why="because", run="run-1")
PROCESSES = "rbee-worker@*.service"
STEP_NAMES = [name for name, _ in STEPS]


class KilledError(BaseException):
    """Stands for SIGKILL: nothing after it runs, not even what handles errors."""


def killed_at(name: str, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> None:
    """Have the activator die before or after a step."""

    def dying(step: Callable[[Activation], None]) -> Callable[[Activation], None]:
        def run(state: Activation) -> None:
            if after:
                step(state)
            raise KilledError

        return run

    steps = tuple((title, dying(step) if title == name else step) for title, step in STEPS)
    monkeypatch.setattr(activation, "STEPS", steps)


def test_a_generation_becomes_current(root: Path, systemd: FakeSystemd) -> None:
    """Files, link and roles are as it says, what must not be there is gone, and it is on record."""
    (ports.ETC / "left-over").write_text("old")
    wanted = staged("r1")
    activation.activate(wanted.id, ME)
    assert ports.CURRENT.readlink() == ports.RELEASES / "r1"
    assert (ports.CREDENTIALS / "key").read_text() == "secret of r1\n"
    assert not (ports.ETC / "left-over").exists()
    assert systemd.restarts == ["rbee-queen.service", "rbee-hive.service"]
    assert systemd.known["rbee.target"].active == "active"
    assert (state().current, state().wanted, state().undo) == (wanted.id, "", {})
    assert [step.run for step in state().good] == ["run-1"]


def test_what_is_as_it_should_be_is_not_restarted(systemd: FakeSystemd) -> None:
    """A second activation of the same generation starts nothing again."""
    wanted = staged("r1")
    activation.activate(wanted.id, ME)
    activation.activate(wanted.id, ME)
    assert len(systemd.restarts) == 2


def test_only_the_role_whose_file_changed_is_restarted(systemd: FakeSystemd) -> None:
    """A file edited by hand is put right, and its role runs with it again, even if its digest never changed."""
    wanted = staged("r1")
    activation.activate(wanted.id, ME)
    (ports.ETC / "hive.yaml").write_text("edited by hand")
    systemd.restarts.clear()
    activation.activate(wanted.id, ME)
    assert systemd.restarts == ["rbee-hive.service"]
    assert (ports.ETC / "hive.yaml").read_text() == "settings of hive in r1\n"


def test_a_release_that_never_becomes_ready_is_put_back(root: Path, systemd: FakeSystemd) -> None:
    """Every path, link and role is as before, with the earlier release's secrets, and the reason is told."""
    first = staged("r1")
    activation.activate(first.id, ME)
    before, ran = tree(root), dict(systemd.ran)
    systemd.bad.add("r2")
    with pytest.raises(ActivationError, match=r"(?s)did not become ready.*the reason.*release r1 is in force again"):
        activation.activate(staged("r2").id, ME)
    assert (tree(root), systemd.ran) == (before, ran)
    assert (state().current, state().wanted, state().undo) == (first.id, "", {})


def test_units_that_went_with_a_failed_change_are_forgotten(root: Path, systemd: FakeSystemd) -> None:
    """One of them that did not stop well does not look as if it were to run here; what runs on keeps its state."""
    activation.activate(staged("r1").id, ME)
    systemd.bad.add("r2")
    systemd.calls.clear()
    with pytest.raises(ActivationError):
        activation.activate(staged("r2", contained=True).id, ME)
    assert {call for call in systemd.calls if call.startswith("forget")} == {f"forget {unit}" for unit in HELPERS}


def test_a_first_deploy_that_fails_leaves_nothing(root: Path, systemd: FakeSystemd) -> None:
    """With nothing to go back to, what was placed is removed, units are off, and the sentence says so."""
    before = tree(root)
    systemd.bad.add("r1")
    with pytest.raises(ActivationError, match="there was no earlier release here"):
        activation.activate(staged("r1").id, ME)
    assert tree(root) == before
    assert {unit.file_state for unit in systemd.known.values()} == {"disabled"}
    assert {unit.active for unit in systemd.known.values()} == {"inactive"}


def test_a_way_back_that_fails_is_kept(root: Path, systemd: FakeSystemd) -> None:
    """When neither the new nor the old release starts, the next activation still knows what worked last."""
    activation.activate(staged("r1").id, ME)
    before = tree(root)
    systemd.broken = True
    with pytest.raises(BrokenError, match="could not be put back"):
        activation.activate(staged("r2").id, ME)
    systemd.broken = False
    systemd.bad.add("r3")
    with pytest.raises(ActivationError, match="release r1 is in force again"):
        activation.activate(staged("r3").id, ME)
    assert tree(root) == before


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", STEP_NAMES)
def test_killed_at_any_step_the_next_run_finishes(
    systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch, name: str, after: bool
) -> None:
    """The same command again ends where an undisturbed run ends, and one more changes nothing."""
    activation.activate(staged("r1").id, ME)
    wanted = staged("r2")
    with monkeypatch.context() as patched:
        killed_at(name, patched, after=after)
        with pytest.raises(KilledError):
            activation.activate(wanted.id, ME)
    activation.activate(wanted.id, ME)
    assert (state().current, state().undo) == (wanted.id, {})
    assert {release for _, release in systemd.ran.values()} == {"r2"}
    restarts = len(systemd.restarts)
    activation.activate(wanted.id, ME)
    assert len(systemd.restarts) == restarts


@pytest.mark.parametrize("name", STEP_NAMES[:-1])
def test_killed_at_any_step_the_way_back_is_still_known(
    root: Path, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """After a kill, another release that fails is put back to what worked before either of them."""
    activation.activate(staged("r1").id, ME)
    before = tree(root)
    with monkeypatch.context() as patched:
        killed_at(name, patched, after=True)
        with pytest.raises(KilledError):
            activation.activate(staged("r2").id, ME)
    systemd.bad |= {"r2", "r3"}
    with pytest.raises(ActivationError, match="release r1 is in force again"):
        activation.activate(staged("r3").id, ME)
    assert tree(root) == before
    assert {release for _, release in systemd.ran.values()} == {"r1"}


@pytest.mark.parametrize("what", ["release", "content", "damaged", "generation"])
def test_an_incomplete_generation_changes_nothing(root: Path, systemd: FakeSystemd, what: str) -> None:
    """What is missing or damaged is named before anything is touched."""
    activation.activate(staged("r1").id, ME)
    before, wanted = tree(root), staged("r2")
    blob = blobs.folder(secret=False) / next(file.sha256 for file in wanted.files if not file.secret)
    if what == "release":
        (ports.RELEASES / "r2" / "release.json").unlink()
    elif what == "generation":
        (places.GENERATIONS / f"{wanted.id}.json").unlink()
    elif what == "content":
        blob.unlink()
    else:
        blob.write_text("something else")
    with pytest.raises(ActivationError, match="run the deploy"):
        activation.activate(wanted.id, ME)
    assert (tree(root), state().wanted) == (before, "")


def test_a_folder_in_the_place_of_a_file_is_named_and_left(root: Path, systemd: FakeSystemd) -> None:
    """What a person put there stays, everything else is as before, and the sentence names the path."""
    activation.activate(staged("r1").id, ME)
    (ports.ETC / "new.conf").mkdir()
    before = tree(root)
    with pytest.raises(ActivationError, match=r"could not place files: .*new\.conf is a folder; move it away"):
        activation.activate(staged("r2", {"new.conf": "text"}).id, ME)
    assert tree(root) == before
    assert (ports.ETC / "new.conf").is_dir()


def test_a_second_activation_waits_and_gives_up(systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once do not mix: the second says that another is under way and changes nothing."""
    wanted = staged("r1")
    monkeypatch.setattr(activation, "LOCK_SECONDS", 0.3)
    with activation.alone(), pytest.raises(ActivationError, match="another activation is under way"):
        activation.activate(wanted.id, ME)
    assert systemd.restarts == []


def test_every_activation_is_on_record(systemd: FakeSystemd) -> None:
    """Who, why, from what to what and how it ended: one line each, for root alone."""
    activation.activate(staged("r1").id, ME)
    systemd.bad.add("r2")
    with pytest.raises(ActivationError):
        activation.activate(staged("r2").id, ME)
    lines = [json.loads(line) for line in places.AUDIT.read_text().splitlines()]
    assert [(line["action"], line["release"]) for line in lines] == [
        *(("begin", "r1"), ("done", "r1")),
        *(("begin", "r2"), ("restored", "r2")),
    ]
    assert {(line["by"], line["why"]) for line in lines} == {("anna@desk", "because")}
    assert lines[-1]["reason"].startswith("rbee-queen.service did not become ready")
    assert places.AUDIT.stat().st_mode & 0o777 == 0o600


def test_a_role_that_moved_elsewhere_ends(root: Path, systemd: FakeSystemd) -> None:
    """Its units are off and its files gone, workers end after their hive, and the role that stays runs on."""
    activation.activate(staged("r1").id, ME)
    systemd.known["rbee-worker@*.service"] = Unit(active="active")
    activation.activate(staged("r1", roles=("queen",)).id, ME)
    hive = systemd.known["rbee-hive.service"]
    assert (hive.active, hive.file_state) == ("inactive", "disabled")
    assert systemd.known["rbee-worker@*.service"].active == "inactive"
    assert not (ports.ETC / "hive.yaml").exists()
    assert list(systemd.ran) == ["rbee-queen.service"]
    assert systemd.restarts == ["rbee-queen.service", "rbee-hive.service"]


def test_workers_that_nobody_takes_over_end_first(
    root: Path, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When workers are to be containers, hive and then processes stop while their settings are still there."""
    activation.activate(staged("r1").id, ME)
    systemd.calls.clear()
    seen: list[str] = []
    ended = systemd.systemctl

    def watched(verb: str, *words: str, seconds: float = 0.0) -> str:
        if PROCESSES in words and verb == "stop":
            seen.append((ports.ETC / "hive.yaml").read_text())
        return ended(verb, *words, seconds=seconds)

    monkeypatch.setattr(units, "systemctl", watched)
    activation.activate(staged("r2", contained=True).id, ME)
    assert [call for call in systemd.calls if call.startswith("stop")] == [
        f"stop {ports.HIVE_UNIT}",
        f"stop {PROCESSES}",
    ]
    assert seen == ["settings of hive in r1\n"]
    assert {systemd.known[unit].active for unit in HELPERS} == {"active"}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", STEP_NAMES)
@pytest.mark.parametrize("contained", [False, True], ids=["to processes", "to containers"])
def test_a_switch_that_was_cut_off_leaves_nothing_of_it(
    root: Path, systemd: FakeSystemd, name: str, *, after: bool, contained: bool
) -> None:
    """Killed at any step of going over to another way, and sent back, the host has no file, unit or worker of it."""
    first = staged("r1", contained=not contained)
    activation.activate(first.id, ME)
    before = tree(root)
    with pytest.MonkeyPatch.context() as patched:
        killed_at(name, patched, after=after)
        with pytest.raises(KilledError):
            activation.activate(staged("r2", contained=contained).id, ME)
    activation.activate(first.id, ME)
    assert tree(root) == before
    assert {systemd.known.get(unit, Unit(active="inactive")).active for unit in HELPERS} == {
        "inactive" if contained else "active"
    }


def test_workers_that_run_as_before_are_left_alone(root: Path, systemd: FakeSystemd) -> None:
    """Another release of the same way ends none: whoever replaces them does so one by one."""
    for contained in (False, True):
        activation.activate(staged("r1", contained=contained).id, ME)
        systemd.calls.clear()
        activation.activate(staged("r2", contained=contained).id, ME)
        assert not [call for call in systemd.calls if "worker" in call and call.startswith("stop")]


def test_what_roles_count_on_is_up_before_them_and_has_its_new_settings(root: Path, systemd: FakeSystemd) -> None:
    """A guard starts before its hive, restarts when its own settings change, and its hive does not for that."""
    activation.activate(staged("r1", contained=True).id, ME)
    assert {systemd.known[unit].active for unit in HELPERS} == {"active"}
    systemd.calls.clear()
    systemd.restarts.clear()
    (ports.ETC / "guard.json").write_text("edited by hand")
    activation.activate(staged("r1", contained=True).id, ME)
    started = [call for call in systemd.calls if not call.startswith("enable")]
    assert (started, systemd.restarts) == (["reload rbee-network.service", "restart rbee-guard.service"], [])


def test_rules_about_workers_come_anew_with_each_activation(root: Path, systemd: FakeSystemd) -> None:
    """Rules that somebody flushed come back although their unit looks active, and before the guard does anything."""
    activation.activate(staged("r1", {"workers.nft": "1"}, contained=True).id, ME)
    brought = [call for call in systemd.calls if call.startswith(("start", "restart", "reload"))]
    assert brought[:2] == ["restart rbee-network.service", "start rbee-guard.socket"]
    for text, verb in (("1", "reload"), ("2", "restart")):
        systemd.calls.clear()
        activation.activate(staged("r1", {"workers.nft": text}, contained=True).id, ME)
        assert [call for call in systemd.calls if "rbee-network" in call and "able" not in call] == [
            f"{verb} rbee-network.service"
        ]
    assert "remove rules" not in systemd.calls


def test_rules_about_workers_go_with_the_last_container(root: Path, systemd: FakeSystemd) -> None:
    """They go where a host leaves containers, and where going over to these failed; the way back brings them again.

    So does the folder in which the guard had copies for workers.
    """
    activation.activate(staged("r1", contained=True).id, ME)
    ports.HANDED.mkdir(parents=True)
    activation.activate(staged("r2").id, ME)
    assert systemd.calls.count("remove rules") == 1
    assert systemd.calls.index("disable rbee-network.service") < systemd.calls.index("remove rules")
    assert not ports.GUARD_RUN.exists()
    systemd.calls.clear()
    systemd.bad.add("r3")
    with pytest.raises(ActivationError, match="release r2 is in force again"):
        activation.activate(staged("r3", contained=True).id, ME)
    assert systemd.calls.count("remove rules") == 1
    activation.activate(staged("r4", contained=True).id, ME)
    systemd.calls.clear()
    with pytest.raises(ActivationError, match="release r4 is in force again"):
        activation.activate(staged("r3").id, ME)
    assert systemd.calls.index("remove rules") < systemd.calls.index("restart rbee-network.service")


def test_a_guard_runs_the_release_that_its_hive_runs(root: Path, systemd: FakeSystemd) -> None:
    """With another release it starts anew although its settings are the same; what ends workers does never."""
    activation.activate(staged("r1", {"guard.json": "{}"}, contained=True).id, ME)
    systemd.calls.clear()
    activation.activate(staged("r2", {"guard.json": "{}"}, contained=True).id, ME)
    assert [call for call in systemd.calls if call.startswith("restart")] == ["restart rbee-guard.service"]


def test_a_guard_is_back_when_the_change_fails(root: Path, systemd: FakeSystemd) -> None:
    """A release that never becomes ready leaves the old guard running with its old settings."""
    activation.activate(staged("r1", contained=True).id, ME)
    before = tree(root)
    systemd.bad.add("r2")
    systemd.calls.clear()
    with pytest.raises(ActivationError, match="release r1 is in force again"):
        activation.activate(staged("r2", contained=True).id, ME)
    assert tree(root) == before
    assert systemd.calls.count("restart rbee-guard.service") == 2
    assert {systemd.known[unit].active for unit in HELPERS} == {"active"}


def test_a_role_is_back_when_the_change_fails(root: Path, systemd: FakeSystemd) -> None:
    """What was ended on the way to a generation that never became ready runs again, with its files."""
    activation.activate(staged("r1").id, ME)
    before, ran = tree(root), dict(systemd.ran)
    systemd.bad.add("r2")
    with pytest.raises(ActivationError, match="release r1 is in force again"):
        activation.activate(staged("r2", roles=("queen",)).id, ME)
    assert (tree(root), systemd.ran) == (before, ran)
    assert systemd.known["rbee-hive.service"].file_state == "enabled"
