"""What units of queen and hive in containers do on the host, with made-up engines in place of Podman and Docker."""

import getpass
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rbee_deploy.activator import activation, quadlets, units
from rbee_deploy.activator.activation import Told
from rbee_deploy.activator.housed import attended, podman, role
from rbee_deploy.activator.housed.engine import Engine
from rbee_deploy.activator.housed.role import ROLES, HousedRole
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports
from tests.unit.deploy.activator.conftest import FakeSystemd, program, staged, state, tree

ME = Told(by="anna@desk", why="because", run="run-1")


UNITS_CONTAINER = ("--filter=name=^rbee-queen$", "--filter=label=PODMAN_SYSTEMD_UNIT=rbee-queen.service")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a Podman that notes what it is asked, in `asked`; container `abc` runs while `container` is there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(
        folder,
        "podman",
        f"""
        import pathlib, sys
        here = pathlib.Path({str(folder)!r})
        with (here / "asked").open("a") as file:
            file.write(" ".join(sys.argv[1:]) + "\\n")
        if (here / "silent").exists():
            sys.exit("cannot set up namespace")
        if sys.argv[1:3] == ["container", "inspect"]:
            print("true" if (here / "container").exists() else "false")
        if sys.argv[1] == "ps" and (here / "container").exists() and {{*sys.argv}} >= set({UNITS_CONTAINER!r}):
            print("0123456789abcdef")
        if sys.argv[1:3] == ["secret", "ls"] and (here / "old").exists():
            print("rbee-queen-hf-token\\nmine\\nrbee-hive-ca.pem")
        if sys.argv[1:2] == ["kill"] and not (here / "deaf").exists():
            pathlib.Path({str(ports.QUEEN_RUN / "running.json")!r}).unlink(missing_ok=True)
        if sys.argv[1:3] == ["secret", "create"]:
            sys.exit((here / "full").exists() and "no space left")
        """,
    )
    program(folder, "sleep", "import time; time.sleep(0.1)")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def asked(engine: Path) -> list[str]:
    return (engine / "asked").read_text().splitlines()


def test_what_a_unit_cannot_know_is_written_for_it(queen: HousedRole, engine: Path) -> None:
    """Ids, secrets and the folder for what runs are those of the host at this start."""
    ports.QUEEN_RUN.mkdir(parents=True)
    (ports.QUEEN_RUN / "running.json").write_text("of one that was killed")
    podman.prepare(queen, ["ca.pem", "queen.key"], [])
    lines = (ports.UNIT_RUN / "queen.env").read_text().splitlines()
    assert lines == [f"RBEE_UID={os.getuid()}", f"RBEE_GID={os.getgid()}", "RBEE_OPTIONS="]
    assert list(ports.QUEEN_RUN.iterdir()) == []
    created = [line for line in asked(engine) if line.startswith("secret create")]
    assert created == [
        f"secret create rbee-queen-{name} {ports.CREDENTIALS / name}" for name in ("ca.pem", "queen.key")
    ]


def test_a_container_that_is_not_ready_does_not_leave(queen: HousedRole, engine: Path, cid: Path) -> None:
    """It may not hear a signal yet, and the unit ends it."""
    podman.prepare(queen, [], [])
    (engine / "container").touch()
    podman.leave(queen)
    assert not [line for line in asked(engine) if line.startswith(("kill", "rename"))]
    assert cid.exists()


def test_secrets_of_another_time_are_forgotten(queen: HousedRole, engine: Path) -> None:
    """Those of this role, before the new ones are given; never those of others."""
    (engine / "old").touch()
    podman.prepare(queen, ["ca.pem"], [])
    lines = [line for line in asked(engine) if line.startswith("secret")]
    made = f"secret create rbee-queen-ca.pem {ports.CREDENTIALS / 'ca.pem'}"
    assert lines == ["secret ls --format {{.Name}}", "secret rm rbee-queen-hf-token", made]


def test_what_a_role_puts_in_the_way_does_not_stop_it(queen: HousedRole, engine: Path) -> None:
    """A folder under the name of its file goes, and what a link there leads to stays."""
    (ports.QUEEN_RUN / "running.json" / "deep").mkdir(parents=True)
    podman.prepare(queen, [], [])
    assert list(ports.QUEEN_RUN.iterdir()) == []
    (ports.QUEEN_RUN / "running.json").symlink_to(ports.CREDENTIALS)
    podman.prepare(queen, [], [])
    assert (ports.CREDENTIALS / "ca.pem").exists()


def test_a_secret_that_podman_does_not_take_is_a_sentence(queen: HousedRole, engine: Path) -> None:
    """The unit does not start without it, and its log says why."""
    (engine / "full").touch()
    with pytest.raises(ActivationError, match=r"podman could not take the secret rbee-queen-ca.pem from .*: no space"):
        podman.prepare(queen, ["ca.pem"], [])


def test_a_user_who_is_not_there_is_a_sentence(queen: HousedRole, engine: Path) -> None:
    """A container is never started as somebody else."""
    with pytest.raises(ActivationError, match="there is no user nobody-here on this host; run the deploy again"):
        podman.prepare(replace(queen, user="nobody-here"), [], [])


def test_options_are_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that the host has, folders that exist, and NVIDIA's cards where a specification has them all."""
    cdi = tmp_path / "cdi"
    cdi.mkdir()
    monkeypatch.setattr(role, "CDI_FOLDERS", (cdi, tmp_path / "none"))
    monkeypatch.setattr(role, "SELINUX", tmp_path / "none")
    monkeypatch.setattr(role, "_gids", lambda names: [7 for _ in names][:1])
    hive = ROLES["hive"]
    shown = [str(tmp_path), str(tmp_path / "gone")]
    assert role.options(hive, shown) == ["--group-add=7", f"--volume={tmp_path}:{tmp_path}:ro"]
    (cdi / "nvidia.yaml").write_text('kind: nvidia.com/gpu\ndevices:\n- name: "0"\n')
    assert "--device=nvidia.com/gpu=all" not in role.options(hive, shown)
    (cdi / "nvidia.yaml").write_text('kind: nvidia.com/gpu\ndevices:\n- name: "0"\n- name: all\n')
    assert "--device=nvidia.com/gpu=all" in role.options(hive, shown)
    assert "--device=nvidia.com/gpu=all" not in role.options(ROLES["queen"], shown)


def test_labels_of_selinux_keep_nobody_from_the_hosts_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host has SELinux, queen and hive have no label of containers; elsewhere nothing is said of it."""
    monkeypatch.setattr(role, "CDI_FOLDERS", ())
    monkeypatch.setattr(role, "_gids", lambda _names: [])
    monkeypatch.setattr(role, "SELINUX", tmp_path / "enforce")
    assert [role.options(each, []) for each in ROLES.values()] == [[], []]
    (tmp_path / "enforce").touch()
    assert [role.options(each, []) for each in ROLES.values()] == [["--security-opt=label=disable"]] * 2


@pytest.mark.parametrize(
    "written", ['{"kind": "nvidia.com/gpu", "devices": [{"name": "all"}]}', "name: 'all' nvidia.com/gpu"]
)
def test_specifications_of_both_forms_are_read(written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CDI specifications are YAML or JSON."""
    (tmp_path / "nvidia.json").write_text(written)
    monkeypatch.setattr(role, "CDI_FOLDERS", (tmp_path,))
    assert "--device=nvidia.com/gpu=all" in role.options(replace(ROLES["hive"], groups=()), [])


@pytest.mark.parametrize(
    ("folders", "words"),
    [("2", "--device=nvidia.com/gpu=all"), ("0", "--gpus=all"), ("", "--gpus=all")],
    ids=["knows CDI", "has it switched off", "is too old for it"],
)
def test_docker_gives_a_hive_all_cards_in_the_way_it_knows(
    folders: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By CDI where the daemon looks for specifications, else by NVIDIA's own runtime."""
    (tmp_path / "nvidia.yaml").write_text("kind: nvidia.com/gpu\ndevices:\n- name: all\n")
    monkeypatch.setattr(role, "CDI_FOLDERS", (tmp_path,))
    program(tmp_path, "docker", f"import sys; print({folders!r}) if {folders!r} else sys.exit('no such field')")
    hive = replace(ROLES["hive"], user=getpass.getuser(), groups=())
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    given = attended._words(Engine("docker"), hive, tmp_path, [], handed=False)
    assert [word for word in given if word.startswith(("--device", "--gpus"))] == [words]


def test_a_process_that_still_finishes_makes_way_for_groups(tmp_path: Path) -> None:
    """What is left in the unit's own control group moves below it; without one of the unit's nothing is moved."""
    unit = tmp_path / "fs/system.slice/rbee-queen.service"
    (unit / "leaving").mkdir(parents=True)
    (unit / "cgroup.procs").write_text("41\n42\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/system.slice/rbee-queen.service/.control\n")
    podman.make_way(own, tmp_path / "fs")
    assert (unit / "leaving/cgroup.procs").read_text() == "42"
    for text in ("0::/system.slice/rbee-queen.service\n", "12:pids:/x\n", "", "0::/gone/.control\n"):
        (unit / "leaving/cgroup.procs").unlink(missing_ok=True)
        own.write_text(text)
        podman.make_way(own, tmp_path / "fs")
        assert not (unit / "leaving/cgroup.procs").exists()


@pytest.fixture
def cid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file in which Podman has noted the unit's container."""
    monkeypatch.setattr(podman, "RUN", tmp_path)
    path = tmp_path / "rbee-queen.cid"
    path.write_text("0123456789abcdef")
    return path


def test_a_container_with_open_streams_is_left_to_them(queen: HousedRole, engine: Path, cid: Path) -> None:
    """It is told to let go, gets another name once it has, and the unit forgets it."""
    podman.prepare(queen, [], [])
    (ports.QUEEN_RUN / "running.json").write_text("{}")
    (engine / "container").touch()
    podman.leave(queen)
    assert [line for line in asked(engine) if not line.startswith(("container inspect", "secret", "ps"))] == [
        "kill --signal=TERM 0123456789abcdef",
        "rename 0123456789abcdef rbee-queen-leaving-0123456789ab",
    ]
    assert not cid.exists()


def test_a_container_that_hangs_is_left_to_the_unit(
    queen: HousedRole, engine: Path, cid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever does not let go is ended as containers of units are."""
    podman.prepare(queen, [], [])
    monkeypatch.setattr(podman, "LEAVE_SECONDS", 0.3)
    (ports.QUEEN_RUN / "running.json").write_text("{}")
    (engine / "deaf").touch()
    (engine / "container").touch()
    podman.leave(queen)
    assert (ports.QUEEN_RUN / "running.json").exists()
    assert not [line for line in asked(engine) if line.startswith("rename")]
    assert cid.exists()


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_note_that_a_predecessor_took_along_is_not_needed(
    is_ready: bool, queen: HousedRole, engine: Path, cid: Path
) -> None:
    """Podman removes it with whatever it was once of; the container is found, or noted again for the unit to end it."""
    podman.prepare(queen, [], [])
    (engine / "container").touch()
    if is_ready:
        (ports.QUEEN_RUN / "running.json").write_text("{}")
    cid.unlink()
    podman.leave(queen)
    assert any(line.startswith("rename 0123456789abcdef") for line in asked(engine)) == is_ready
    assert (cid.read_text() if cid.exists() else "") == ("" if is_ready else "0123456789abcdef")


def test_a_podman_that_does_not_answer_has_nothing_changed(queen: HousedRole, engine: Path, cid: Path) -> None:
    """Its silence is no container that is gone; the sentence says what Podman said and what to do."""
    podman.prepare(queen, [], [])
    (ports.QUEEN_RUN / "running.json").write_text("{}")
    for name in ("container", "silent"):
        (engine / name).touch()
    (engine / "asked").unlink()
    said = r"does not say whether the queen runs .*\(cannot set up namespace\): run `podman ps` as root"
    with pytest.raises(ActivationError, match=said):
        podman.leave(queen)
    assert [line.split()[0] for line in asked(engine)] == ["ps"]
    assert cid.exists()
    assert (ports.QUEEN_RUN / "running.json").exists()


def test_a_podman_that_falls_silent_has_let_nobody_go(
    queen: HousedRole, engine: Path, cid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that hangs, at an engine that does not say any more whether it runs, is for the unit to end."""
    podman.prepare(queen, [], [])
    (ports.QUEEN_RUN / "running.json").write_text("{}")
    (engine / "container").touch()

    def hangs(*_words: object) -> bool:
        (engine / "silent").touch()
        return False

    monkeypatch.setattr(podman, "let_go", hangs)
    assert not podman.leave(queen)


@pytest.fixture
def silent(root: Path, systemd: FakeSystemd, engine: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    """Give the systemd of a host whose Podman does not answer."""
    monkeypatch.setattr(quadlets, "check", lambda _generation: None)
    (ports.ETC / "systemd").mkdir(parents=True)
    (engine / "silent").touch()
    return systemd


def test_a_queen_of_a_silent_podman_stays_what_she_is(silent: FakeSystemd) -> None:
    """Who writes bare is told to mend Podman first, her streams go on, and every file is as before."""
    first = staged("r1", {"systemd/rbee-queen.container": "old"})
    activation.activate(first.id, ME)
    before, ran = tree(ports.ETC), dict(silent.ran)
    silent.calls.clear()
    with pytest.raises(ActivationError, match="podman does not say whether the queen runs in a container"):
        activation.activate(staged("r2", {"systemd/rbee-queen.service": "new"}).id, ME)
    assert (tree(ports.ETC), silent.ran, state().current) == (before, ran, first.id)
    assert not [call for call in silent.calls if call.startswith("stop")]


def test_the_way_back_does_not_need_an_answer_of_podman(silent: FakeSystemd) -> None:
    """A change that failed is put back; the unit is stopped as what it is, together with its socket."""
    activation.activate(staged("r1", {"systemd/rbee-queen.service": "old"}).id, ME)
    before = tree(ports.ETC)
    silent.bad.add("r2")
    silent.calls.clear()
    with pytest.raises(ActivationError, match="release r1 is in force again"):
        activation.activate(staged("r2", {"systemd/rbee-queen.container": "new"}).id, ME)
    assert tree(ports.ETC) == before
    ended = [call for call in silent.calls if call.startswith("stop rbee-queen")]
    assert ended == ["stop rbee-queen.socket", "stop rbee-queen.service"]


@pytest.mark.parametrize("has_left", [True, False])
def test_a_unit_whose_files_change_is_held_until_they_have(
    has_left: bool, queen: HousedRole, root: Path, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever asks for it meanwhile: it would start as what it was. Systemd knows the new files by then."""
    left: list[str] = []
    mark = ports.UNIT_RUN / f"{queen.unit}.held"

    def leave(role: HousedRole, *, unit: Path) -> bool:
        left.append(f"{role.name} {unit.name}")
        mark.parent.mkdir()
        mark.touch()
        return has_left

    def register(_enabled: object) -> None:
        left.append(f"held {mark.exists()}")

    monkeypatch.setattr(podman, "leave", leave)
    monkeypatch.setattr(units, "register", register)
    monkeypatch.setattr(quadlets, "check", lambda _generation: None)
    (ports.ETC / "systemd").mkdir(parents=True)
    activation.activate(staged("r1", {"systemd/rbee-queen.container": "old"}).id, ME)
    systemd.calls.clear()
    activation.activate(staged("r2", {"systemd/rbee-queen.service": "new"}).id, ME)
    assert left == ["held False", "queen rbee-queen.service", "held True"]
    assert not mark.exists()
    # One that serves nobody ends as what it is, together with the socket that would start it again.
    ended = [call for call in systemd.calls if call.startswith("stop rbee-queen")]
    assert ended == ([] if has_left else ["stop rbee-queen.socket", "stop rbee-queen.service"])


def test_what_a_failed_change_handed_over_is_taken_back(
    queen: HousedRole, root: Path, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the way back a role that is in no container has no secrets at an engine, nor copies in memory."""
    forgotten: list[str] = []
    monkeypatch.setattr(quadlets, "check", lambda _generation: None)
    monkeypatch.setattr(podman, "forget", lambda role: forgotten.append(role.name))
    (ports.ETC / "systemd").mkdir(parents=True)
    activation.activate(staged("r1", {"systemd/rbee-queen.service": "old"}).id, ME)
    copies = ports.UNIT_RUN / "queen-abc"
    copies.mkdir(parents=True)
    systemd.bad = {"r2"}
    with pytest.raises(ActivationError):
        activation.activate(staged("r2", {"systemd/rbee-queen.container": "new"}).id, ME)
    assert forgotten == ["queen"]
    assert not copies.exists()


@pytest.fixture
def reloads(systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Note what lies in systemd's folder whenever it is asked to read its files again."""
    told: list[set[str]] = []
    systemctl = systemd.systemctl

    def heard(verb: str, *words: str, **how: float) -> str:
        if verb == "daemon-reload":
            told.append({path.name for path in (ports.ETC / "systemd").rglob("*")})
        return systemctl(verb, *words, **how)

    monkeypatch.setattr(units, "systemctl", heard)
    return told


HOUSED = {"systemd/rbee-queen.container": "new", "systemd/rbee-queen.service.d/50-rbee.conf": "new"}


@pytest.mark.parametrize("first", [True, False], ids=["first deploy", "bare before"])
def test_a_failed_change_into_a_container_leaves_nothing_of_its_units(
    first: bool,
    root: Path,
    systemd: FakeSystemd,
    engine: Path,
    reloads: list[set[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the folder of a drop-in, nor what Quadlet had made of its file, nor what the unit was told stays."""
    monkeypatch.setattr(quadlets, "check", lambda _generation: None)
    (ports.ETC / "systemd").mkdir(parents=True)
    if not first:
        activation.activate(staged("r1", {"systemd/rbee-queen.service": "old"}).id, ME)
    before = set((ports.ETC / "systemd").rglob("*"))
    for path in (podman.environment(ROLES["queen"]), ROLES["queen"].running_file):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    systemd.bad = {"r2"}
    reloads.clear()
    with pytest.raises(ActivationError):
        activation.activate(staged("r2", HOUSED).id, ME)
    assert set((ports.ETC / "systemd").rglob("*")) == before
    assert reloads[-1] == {path.name for path in before}
    assert not ports.UNIT_RUN.exists()
    # The queen that runs again says there what she runs.
    assert ROLES["queen"].run.exists() is not first


def test_a_failed_change_of_settings_alone_reads_no_unit_again(systemd: FakeSystemd, reloads: list[set[str]]) -> None:
    """To read units again can take GPUs away from containers."""
    (ports.ETC / "systemd").mkdir(parents=True)
    activation.activate(staged("r1", {"systemd/rbee-queen.service": "same"}).id, ME)
    systemd.bad = {"r2"}
    reloads.clear()
    with pytest.raises(ActivationError):
        activation.activate(staged("r2", {"systemd/rbee-queen.service": "same", "more.yaml": "new"}).id, ME)
    assert reloads == []


def test_systemd_reads_its_files_again_once_what_it_knows_is_gone(
    root: Path, systemd: FakeSystemd, reloads: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop-in goes last, also where no unit does; a second run would find that systemd holds old files."""
    monkeypatch.setattr(quadlets, "check", lambda _generation: None)
    (ports.ETC / "systemd/rbee-queen.service.d").mkdir(parents=True)
    before = staged("r1", {"systemd/other.service": "old", "systemd/rbee-queen.service.d/50-rbee.conf": "old"})
    activation.activate(before.id, ME)
    reloads.clear()
    activation.activate(staged("r2", {"systemd/other.service": "new"}).id, ME)
    assert reloads == [{"other.service"}]


def test_what_stands_in_for_a_container_ends_once_its_unit_may_start(queen: HousedRole, root: Path) -> None:
    """It is the main process of a unit that systemd takes to be stopping."""
    mark = ports.UNIT_RUN / f"{queen.unit}.held"
    mark.parent.mkdir(parents=True)
    mark.touch()
    with subprocess.Popen(["sh", "-c", podman.WHILE_HELD.format(mark=mark)]) as held:
        with pytest.raises(subprocess.TimeoutExpired):
            held.wait(0.5)
        podman.release(queen)
        assert held.wait(5) == 0
    podman.release(queen)


@pytest.mark.parametrize("content", [None, "", "0123456789abcdef"])
def test_without_a_container_there_is_nothing_to_leave(
    content: str | None, queen: HousedRole, engine: Path, cid: Path
) -> None:
    """As when the unit was a process of the host until now."""
    cid.unlink()
    if content is not None:
        cid.write_text(content)
    podman.leave(queen)
    assert not (engine / "asked").exists() or not [line for line in asked(engine) if line.startswith("kill")]
