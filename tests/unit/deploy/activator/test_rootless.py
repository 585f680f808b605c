"""What the user of a rootless Podman gets on a host, and how root speaks for it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rbee_deploy.activator import engines, places
from rbee_deploy.activator.housed.engine import Engine
from rbee_deploy.activator.housed.naming import naming
from rbee_deploy.activator.housed.role import ROLES
from rbee_deploy.activator.rootless import account, locking, network
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports, subordinate
from rbee_runtime.worker_bridge import TABLES

IDS = {"rbee-queen": 994, "rbee-hive": 993, "rbee-worker": 992, "rbee-engine": 991, "rbee-models": 996, "video": 44}


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give a host with our users, and return what its systemd is asked."""
    asked: list[str] = []
    users = [SimpleNamespace(pw_name=name, pw_uid=number, pw_gid=number) for name, number in IDS.items()]
    groups = [SimpleNamespace(gr_name=name, gr_gid=number) for name, number in IDS.items()]
    monkeypatch.setattr("pwd.getpwall", lambda: users)
    monkeypatch.setattr("pwd.getpwnam", lambda name: next(user for user in users if user.pw_name == name))
    monkeypatch.setattr("grp.getgrall", lambda: groups)
    monkeypatch.setattr(account, "LINGER", tmp_path / "linger")
    monkeypatch.setattr(account, "RESOLVER", tmp_path / "resolv.conf")
    monkeypatch.setattr(places, "HOME", tmp_path / "home")
    monkeypatch.setattr(places, "RESOLVER_MADE", tmp_path / "home" / "resolver-made")
    monkeypatch.setattr(locking, "PASSWORDS", tmp_path / ".pwd.lock")
    for name in ("SUBUID", "SUBGID"):
        (tmp_path / name).write_text("anna:100000:65536\n")
        monkeypatch.setattr(subordinate, name, str(tmp_path / name))
    monkeypatch.setattr(engines, "runtime_dir", lambda uid: str(tmp_path / "run" / uid))
    monkeypatch.setattr("rbee_deploy.activator.units.systemctl", lambda *words: asked.append(" ".join(words)))
    return asked


def test_a_host_lends_exactly_our_ids(started: list[str], tmp_path: Path) -> None:
    """Those of our users and groups, and of cards, each by itself; its user's services are up from boot on."""
    account.prepare()
    account.prepare()
    images = "rbee-engine:165536:65536\n"
    lent = {name: (tmp_path / name).read_text().partition("\n")[2] for name in ("SUBUID", "SUBGID")}
    uids, gids = (992, 993, 994), (44, 992, 993, 994, 996)
    assert lent["SUBUID"] == "".join(f"rbee-engine:{each}:1\n" for each in uids) + images
    assert lent["SUBGID"] == "".join(f"rbee-engine:{each}:1\n" for each in gids) + images
    assert [path.name for path in (tmp_path / "linger").iterdir()] == ["rbee-engine"]
    assert started == ["start -- user@991.service"] * 2
    assert ((tmp_path / "resolv.conf").read_text(), (tmp_path / "resolv.conf").stat().st_mode & 0o777) == ("", 0o644)
    assert places.RESOLVER_MADE.exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".lock") and path.name != ".pwd.lock"]


@pytest.mark.parametrize("there", ["nameserver 192.0.2.1\n", ""])
def test_a_resolver_of_the_host_s_own_is_not_ours_to_remove(started: list[str], tmp_path: Path, there: str) -> None:
    """One that was there is left as it is, and nothing says that it was made."""
    (tmp_path / "resolv.conf").write_text(there)
    account.prepare()
    assert (tmp_path / "resolv.conf").read_text() == there
    assert not places.RESOLVER_MADE.exists()


def test_what_runs_keeps_the_ids_that_it_began_with(
    started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new group is lent only when the engine starts anew, which has Podman end what runs with the old ones."""
    account.prepare()
    before = (tmp_path / "SUBGID").read_text()
    migrated: list[bool] = []
    monkeypatch.setattr(account, "_migrate", lambda: migrated.append(True))
    # This very process stands for the one that keeps the namespace: it has other ids than those that are lent.
    monkeypatch.setattr(account, "_pause", lambda _: Path("/proc/self"))
    monkeypatch.setitem(IDS, "render", 105)
    render = SimpleNamespace(gr_name="render", gr_gid=105)
    known = [SimpleNamespace(gr_name=name, gr_gid=number) for name, number in IDS.items() if name != "render"]
    monkeypatch.setattr("grp.getgrall", lambda: [*known, render])
    account.prepare()
    assert ((tmp_path / "SUBGID").read_text(), migrated) == (before, [])
    account.prepare(anew=True)
    assert "rbee-engine:105:1\n" in (tmp_path / "SUBGID").read_text()
    assert migrated == [True]


@pytest.fixture
def pause(started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file in which Podman of the user, who is the one that runs the test, notes a process, number 4711."""
    assert started == []
    monkeypatch.setattr(account, "PROC", tmp_path / "proc")
    for number in (4711, 1):
        (tmp_path / f"proc/{number}").mkdir(parents=True)
        (tmp_path / f"proc/{number}/uid_map").touch()
    path = tmp_path / f"run/{os.getuid()}" / account.PAUSE
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4711", True),
        ("4711\n", True),
        ("4712", False),
        ("", False),
        ("../4711", False),
        ("4711/../4711", False),
        ("-1", False),
        ("\u0664\u0667\u0661\u0661", False),
        ("\0" * 4096, False),
        ("0" * (1 << 20) + "4711", False),
    ],
)
def test_what_the_user_notes_is_a_number_or_nothing(pause: Path, text: str, found: bool) -> None:
    """It is read by root, so it is digits, few of them, and names a process of that user."""
    pause.write_text(text)
    assert (account._pause(os.getuid()) is not None) is found


def test_a_process_of_somebody_else_is_not_the_user_s(pause: Path) -> None:
    """Whatever the file says."""
    pause.write_text("4711")
    other = os.getuid() + 1
    (pause.parents[3] / str(other)).symlink_to(pause.parents[2])
    assert account._pause(other) is None
    assert account.owned("4711", other) is None


@pytest.mark.parametrize("depth", range(4))
def test_no_link_on_the_way_is_followed(pause: Path, tmp_path: Path, depth: int) -> None:
    """Neither the file nor a folder above it, which all belong to the user, leads root elsewhere."""
    pause.write_text("4711")
    place = [pause, *pause.parents][depth]
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert pause.read_text() == "4711"
    assert account._pause(os.getuid()) is None


def test_what_is_no_file_is_not_waited_for(pause: Path) -> None:
    """A pipe that nobody writes to would keep root for ever."""
    os.mkfifo(pause)
    assert account._pause(os.getuid()) is None


def test_a_host_without_the_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to do."""

    def nobody(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr("pwd.getpwnam", nobody)
    with pytest.raises(ActivationError, match="there is no user rbee-engine on this host; run the deploy again"):
        account.prepare()


def test_roles_have_the_names_of_their_engine(started: list[str]) -> None:
    """Root's engines take the host's numbers, that of another user those that it was lent."""
    account.prepare()
    assert started
    assert naming("docker").ids(ROLES["hive"]) == (993, 993)
    inside = naming(engines.ROOTLESS)
    assert inside.ids(ROLES["hive"]) == (2, 3)
    assert inside.gids([44, 996, 7]) == [1, 5]
    Path(subordinate.SUBUID).write_text("")
    with pytest.raises(ActivationError, match="lend no rbee-hive to rbee-engine: run `systemctl restart rbee-podman"):
        naming(engines.ROOTLESS).ids(ROLES["hive"])


def test_root_speaks_for_the_user_with_nothing_of_its_own() -> None:
    """Podman looks for what a user was lent by the name in its surroundings, and for its state by the home there."""
    words = engines.in_shell(engines.ROOTLESS)
    assert words.startswith("setpriv --reuid=rbee-engine --regid=rbee-engine --init-groups env -i --chdir=/ PATH=")
    assert words.endswith(
        "HOME=/var/lib/rbee/engine USER=rbee-engine XDG_RUNTIME_DIR=/run/user/$(id -u rbee-engine) podman"
    )
    assert (engines.in_shell("docker"), engines.program(engines.ROOTLESS)) == ("docker", "podman")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a Podman whose network is entered by writing a line, and an nft that notes its words in `asked`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (
        ("podman", '[ ! -e "$0.fails" ] || exit 1; echo 4711; cat; echo gone >"$0.ended"'),
        ("nsenter", f'echo "$@" >>{folder}/asked; [ ! -e {folder}/broken ] || {{ echo no such thing >&2; exit 1; }}'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(engines, "command", lambda _: ("podman",))
    monkeypatch.setattr(account, "prepare", lambda: None)
    monkeypatch.setattr(ports, "NETWORK_RUN", tmp_path / "net")
    monkeypatch.setattr(ports, "NETWORK_HOLDER", tmp_path / "net" / "holder")
    monkeypatch.setattr(ports, "NETWORK_MARK", tmp_path / "net" / "in-force")
    monkeypatch.setattr("rbee_runtime.notify.notify", lambda _: os.kill(os.getpid(), 15))
    monkeypatch.setattr("pwd.getpwnam", lambda _: SimpleNamespace(pw_uid=os.getuid()))
    monkeypatch.setattr(account, "PROC", tmp_path / "proc")
    (tmp_path / "proc/4711").mkdir(parents=True)
    (tmp_path / "proc/4711/uid_map").touch()
    return folder


def test_the_network_is_held_until_the_unit_ends(programs: Path, tmp_path: Path) -> None:
    """The rules are loaded in it before anybody hears of it, and whoever is in it leaves with the unit's process."""
    with pytest.raises(SystemExit) as ended:
        network.hold()
    assert ended.value.code == 0
    assert (tmp_path / "net" / "holder").read_text() == "4711\n"
    words = ("-f /etc/rbee/workers.nft", *(f"list table {table}" for table in TABLES))
    assert (programs / "asked").read_text() == "".join(f"--net=/proc/4711/ns/net nft {each}\n" for each in words)
    assert (tmp_path / "net" / "in-force").exists()
    assert (programs / "podman.ended").exists()


def test_rules_go_into_no_network_but_that_of_the_user(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of anybody else, which the user could name, is not entered; nor is one that took over the number."""
    monkeypatch.setattr("pwd.getpwnam", lambda _: SimpleNamespace(pw_uid=os.getuid() + 1))
    with pytest.raises(ActivationError, match="podman gives its user no network"):
        network.hold()
    (tmp_path / "net").mkdir(exist_ok=True)
    (tmp_path / "net" / "holder").write_text("4711\n")
    with pytest.raises(ActivationError, match="nobody holds the network of workers"):
        network.load()
    assert not (programs / "asked").exists()


@pytest.mark.parametrize(
    ("broken", "said"), [("podman.fails", "podman gives its user no network"), ("broken", "no such thing")]
)
def test_a_network_without_rules_is_none(programs: Path, broken: str, said: str) -> None:
    """The unit fails with the reason, and so no worker starts."""
    (programs / broken).touch()
    with pytest.raises(ActivationError, match=said):
        network.hold()


@pytest.mark.parametrize("fails", ["-f", *(table.split()[0] for table in TABLES)])
def test_a_reload_that_fails_takes_the_mark_away(programs: Path, tmp_path: Path, fails: str) -> None:
    """Whether nft refuses the rules or a table is not there after it: no worker starts until a reload goes well."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "holder").write_text("4711\n")
    good = (programs / "nsenter").read_text()
    network.load()
    before = (tmp_path / "net" / "in-force").exists()
    (programs / "nsenter").write_text(f'#!/bin/sh\ncase " $* " in *" {fails} "*) echo refused >&2; exit 1;; esac\n')
    with pytest.raises(ActivationError, match="refused"):
        network.load()
    during = (tmp_path / "net" / "in-force").exists()
    (programs / "nsenter").write_text(good)
    network.load()
    assert (before, during, (tmp_path / "net" / "in-force").exists()) == (True, False, True)


def test_the_commands_of_units_are_known() -> None:
    """What unit files call is there."""
    done = subprocess.run(
        [sys.executable, "-m", "rbee_deploy.activator", "rootless", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(word in done.stdout for word in ("prepare", "serve", "network", "rules"))


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("docker", ["rm --force c"]),
        (engines.ROOTLESS, [*["kill --signal=KILL c"] * 3, "rm --force --time=0 --ignore c"]),
    ],
)
def test_a_container_is_killed_before_it_is_removed(
    name: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Podman without root would wait for ever for the processes of one that sees the host's; its first one is ended."""
    program = tmp_path / "engine"
    noted = tmp_path / "asked"
    lines = (f'echo "$@" >>{noted}', '[ "$1" = kill ] || exit 0', f"[ $(grep -c kill {noted}) -lt 3 ]")
    program.write_text("\n".join(("#!/bin/sh", *lines, "")))
    program.chmod(0o755)
    monkeypatch.setattr(engines, "command", lambda _: (str(program),))
    Engine(name).remove("c")
    assert noted.read_text().splitlines() == asked
