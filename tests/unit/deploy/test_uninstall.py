"""What a purge removes, and what it leaves to the operator."""

import json
import subprocess
from pathlib import Path

import pytest

from rbee_deploy import uninstall
from rbee_deploy.activator import places
from rbee_deploy.inventory import host
from rbee_runtime import ports
from rbee_runtime.models.layout import Layout
from rbee_runtime.worker_bridge import TABLES


def test_every_part_of_the_store_is_removed_with_the_models() -> None:
    """The list has each file and folder that a hive keeps in its models folder, and where uploads arrive."""
    root = Path("/models")
    parts = [path for path in vars(Layout(root)).values() if isinstance(path, Path) and path.parent == root]
    assert {path.name for path in parts} | {"incoming"} == set(uninstall.STORE_PARTS)


@pytest.mark.parametrize("models", [False, True])
def test_a_models_folder_keeps_what_is_not_of_rbee(models: bool, tmp_path: Path) -> None:
    """Without --models all of it stays; with it the store goes and the operator's own file beside it stays."""
    for part in ("blobs/sha256-ab", "pins.json", "notes.txt"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).write_text(part)
    script = uninstall.script(host("gpu1", models_dir=str(tmp_path)), models=models)
    removing = [line for line in script.splitlines() if line.startswith("rm -rf") and str(tmp_path) in line]
    mine = [line.replace(line.partition(str(tmp_path))[0], "rm -rf -- ") for line in removing]
    subprocess.run(["sh", "-c", "\n".join(mine)], check=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({"notes.txt"} if models else {"blobs", "pins.json", "notes.txt"})


def test_rules_about_workers_go_after_their_containers(tmp_path: Path) -> None:
    """Both tables are deleted once no worker is left that they would have kept in, and before what names them goes."""
    lines = uninstall.script(host("gpu1"), models=False).splitlines()
    (line,) = [line for line in lines if "nft delete" in line]
    ends = next(number for number, line in enumerate(lines) if "rm --force --volumes" in line)
    files = next(number for number, line in enumerate(lines) if line.startswith("rm -rf") and "/etc/rbee" in line)
    assert ends < lines.index(line) < files
    (tmp_path / "nft").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/said; exit 1\n')
    (tmp_path / "nft").chmod(0o755)
    subprocess.run(["sh", "-c", line], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert (tmp_path / "said").read_text().splitlines() == [f"delete table {table}" for table in TABLES]


@pytest.mark.parametrize(("runs", "asked"), [(False, False), (True, True)])
def test_a_docker_that_nobody_used_is_not_woken(runs: bool, asked: bool, tmp_path: Path) -> None:
    """Once it is up it drops what it does not forward itself, also for containers of another engine."""
    programs = {"docker": f'echo "$@" >>{tmp_path}/asked', "podman": ":", "pgrep": f"exit {int(not runs)}"}
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    lines = uninstall.script(host("gpu1"), models=False).splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("images="))
    part = "\n".join(lines[begin : lines.index("done", begin) + 1])
    subprocess.run(["sh", "-c", part], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert (tmp_path / "asked").exists() is asked


@pytest.mark.parametrize(
    ("generation", "guard", "code"),
    [
        ({"engine": "podman"}, {}, 1),
        ({}, {"engine": "podman"}, 1),
        ({"engine": "podman-rootless"}, {"engine": "podman", "engine_user": "rbee-engine"}, 0),
        ({"engine": "podman"}, {"engine": "podman", "engine_user": "rbee-engine"}, 1),
        ({}, {}, 0),
    ],
    ids=["root's", "root's, of before", "rootless", "rootless, and root's before", "bare"],
)
def test_only_an_engine_that_the_host_used_has_to_answer(
    generation: dict[str, str], guard: dict[str, str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's Podman, which is away, keeps no purge of a host whose containers are those of a Podman without root."""
    monkeypatch.setattr(places, "GENERATIONS", tmp_path / "generations")
    monkeypatch.setattr(ports, "ETC", tmp_path / "etc")
    for path, known in ((places.GENERATIONS / "1.json", generation), (ports.ETC / "guard.json", guard)):
        path.parent.mkdir()
        path.write_text(json.dumps(known, indent=1))
    (tmp_path / "podman").write_text("#!/bin/sh\nexit 125\n")
    (tmp_path / "podman").chmod(0o755)
    lines = uninstall.script(host("gpu1"), models=False).splitlines()
    asking = "\n".join(lines[: lines.index("done") + 1])
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", asking], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.startswith("podman does not answer") is bool(code)


@pytest.mark.parametrize(
    ("made", "content", "stays"), [(True, "", False), (True, "nameserver 192.0.2.1\n", True), (False, "", True)]
)
def test_an_empty_resolver_s_file_goes_if_it_is_ours(
    made: bool, content: str, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody has written into it since is his, and so is an empty one that was there before us."""
    monkeypatch.setattr(places, "RESOLVER_MADE", tmp_path / "made")
    resolver = tmp_path / "resolv.conf"
    monkeypatch.setattr("rbee_deploy.uninstall.RESOLVER", resolver)
    if made:
        places.RESOLVER_MADE.touch()
    resolver.write_text(content)
    lines = uninstall.script(host("gpu1"), models=False).splitlines()
    (line,) = [line for line in lines if "resolv.conf" in line]
    notes = next(number for number, line in enumerate(lines) if line.startswith("rm -rf") and str(places.HOME) in line)
    assert lines.index(line) < notes
    subprocess.run(["sh", "-c", line], check=True)
    assert resolver.exists() is stays


def test_a_link_in_the_place_of_the_resolver_s_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is somebody else's, wherever it leads."""
    monkeypatch.setattr(places, "RESOLVER_MADE", tmp_path / "made")
    resolver = tmp_path / "resolv.conf"
    monkeypatch.setattr("rbee_deploy.uninstall.RESOLVER", resolver)
    places.RESOLVER_MADE.touch()
    resolver.symlink_to(tmp_path / "nowhere")
    (line,) = [line for line in uninstall.script(host("gpu1"), models=False).splitlines() if "resolv.conf" in line]
    subprocess.run(["sh", "-c", line], check=True)
    assert resolver.is_symlink()


ENGINE = """\
#!/bin/sh
case "$*" in
"ps --quiet") exit 0;;
ps*name=*) exit 0;;
ps*--quiet*) [ ! -s {folder}/containers ] || echo 1a2b;;
ps*) cat {folder}/containers;;
rm*) echo x >>{folder}/tries; {rm};;
esac
"""
GOES, STAYS = ": >{folder}/containers", "echo 'could not kill container' >&2; exit 1"
AT_ONCE = {"podman": ":", "id": "exit 1", "systemctl": ":", "sleep": ":", "nft": ":", "pgrep": ":"}


def ended(folder: Path, *, rm: str, group: str) -> "subprocess.CompletedProcess[str]":
    """Run what a purge does from its containers to its files, where Docker has a worker and a process has a group."""
    (folder / "containers").write_text("rbee-worker-w1\n")
    (folder / "proc" / "4711").mkdir(parents=True)
    (folder / "proc" / "4711" / "cgroup").write_text(f"0::{group}\n")
    docker = ENGINE.replace("{rm}", rm).replace("{folder}", str(folder))
    for name, text in {**AT_ONCE, "docker": docker}.items():
        (folder / name).write_text(text if name == "docker" else f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    lines = uninstall.script(host("gpu1"), models=False).splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("images="))
    end = next(number for number, line in enumerate(lines) if "nft delete" in line)
    text = "\n".join((*lines[begin:end], "echo goes on")).replace("/proc/", f"{folder}/proc/")
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True, check=False)


WORKERS = "/system.slice/system-rbee\\x2dworker.slice"
W1, W2 = "container rbee-worker-w1 of docker", "rbee-worker@w2.service"
FIX = "restart the host, and purge it again\n"


@pytest.mark.parametrize(
    ("rm", "group", "left"),
    [
        (GOES, "/system.slice/ssh.service", ""),
        (GOES, "/machine.slice/machine-box.scope/payload/system.slice/rbee-hive.service", ""),
        (STAYS, "/system.slice/ssh.service", W1),
        (f"[ $(wc -l <{{folder}}/tries) -lt 2 ] || {GOES}", "/system.slice/ssh.service", ""),
        (GOES, f"{WORKERS}/{W2}", W2),
        (GOES, "/system.slice/rbee-hive.service/libpod-payload-1a2b", "rbee-hive.service"),
        (GOES, "/mine.slice/rbee-queen.service", "rbee-queen.service"),
        (STAYS, f"{WORKERS}/{W2}", f"{W1}, {W2}"),
    ],
    ids=["none", "a host inside", "container", "in a while", "worker", "hive", "queen in a slice", "both"],
)
def test_a_purge_ends_where_something_of_rbee_does_not(rm: str, group: str, left: str, tmp_path: Path) -> None:
    """What it knows of the host stays for the next one, as do the rules about a worker that is still there."""
    done = ended(tmp_path, rm=rm, group=group)
    assert (done.returncode, done.stdout) == ((1, "") if left else (0, "goes on\n"))
    assert done.stderr.endswith(f"could not be ended: {left}; {FIX}" if left else "")


def test_what_a_purge_knows_of_a_host_goes_once_nothing_runs() -> None:
    """The user of an engine is removed before that is looked at, and what names containers and images after it."""
    lines = uninstall.script(host("gpu1"), models=True).splitlines()
    (looks,) = [number for number, line in enumerate(lines) if "could not be ended" in line]
    removes = [number for number, line in enumerate(lines) if line.startswith("rm -rf")]
    assert lines.index("engine_s() { {") < looks < min(removes)


def of_engine_s_user(folder: Path) -> str:
    """Return the part of a purge that removes the engine's user, with its folders in `folder`."""
    lines = uninstall.script(host("gpu1"), models=False).splitlines()
    parts = [
        lines[lines.index(begin) : lines.index(end, lines.index(begin)) + 1]
        for begin, end in (("remove_user() {", "}"), ("engine_s() { {", "fi"))
    ]
    text = "\n".join(line for part in parts for line in part)
    return text.replace(str(ports.ENGINE_STATE), f"{folder}/store").replace("/proc/", f"{folder}/proc/")


def purged_of_engine_s_user(folder: Path, **programs: str) -> "subprocess.CompletedProcess[str]":
    """Run that part; what it kills is gone from the made-up /proc, and each `programs` is a script by its name."""
    (folder / "store").mkdir()
    usual = {"id": "echo 991", "pgrep": "exit 1", "systemctl": ":", "setpriv": ":", "sleep": ":", "userdel": ":"}
    for name, text in {**usual, **programs}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    kill = f'kill() {{ shift; for pid; do [ $pid = 1 ] || rm -r "{folder}/proc/$pid"; done; }}\n'
    return subprocess.run(
        ["sh", "-c", kill + of_engine_s_user(folder)],
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_was_lent_is_taken_back_by_the_tool_that_has_its_locks(tmp_path: Path) -> None:
    """No line of the script writes those files, and one that userdel leaves as they are ends the purge."""
    assert "/etc/sub" not in uninstall.script(host("gpu1"), models=False)
    done = purged_of_engine_s_user(tmp_path, userdel="echo 'userdel: cannot lock /etc/subuid' >&2; exit 1")
    said = "user rbee-engine could not be removed: userdel: cannot lock /etc/subuid\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert (tmp_path / "store").exists()


HOST_S = "0 0 4294967295"
LENT = "0 991 1\n1 992 1\n2 993 1\n3 994 1\n4 296608 65536"
PLAIN = "system.slice/ssh.service"
LEGACY = "9:name=systemd:/{0}\n8:pids:/\n0::/"
MANAGER = "user.slice/user-991.slice/user@991.service"
SCOPE = f"libpod-{'a' * 64}.scope"


@pytest.mark.parametrize(
    ("ids", "group", "ends"),
    [
        (LENT, f"{MANAGER}/user.slice/{SCOPE}/container", True),
        (LENT, "system.slice/rbee-podman.service", True),
        (LENT, "user.slice/user-1000.slice/session-c1.scope", True),
        ("991 991 1\n992 992 1", "system.slice/rbee-podman.service", True),
        (HOST_S, f"{MANAGER}/init.scope", True),
        ("0 991 1", "system.slice/rbee-network.service", True),
        (HOST_S, f"machine.slice/{SCOPE}/container", False),
        (HOST_S, f"system.slice/docker-{'b' * 64}.scope", False),
        (HOST_S, f"docker/{'b' * 64}", False),
        (HOST_S, "system.slice/foreign.service", False),
        ("0 991 1", f"docker/{'b' * 64}", False),
        ("0 1000 1\n1 100000 65536", f"user.slice/user-1000.slice/user@1000.service/user.slice/{SCOPE}", False),
        ("0 9910 1\n1 100000 65536", PLAIN, False),
        ("0 0 1\n991 991 1", PLAIN, False),
        ("0 100000 1000\n1000 991 1\n1001 101001 64535", "lxc.payload.box/init.scope", False),
        ("0 0 991\n991 100000 1", f"machine.slice/{SCOPE}", False),
        (HOST_S, f"machine.slice/machine-box.scope/payload/{MANAGER}", False),
        (HOST_S, "lxc.payload.box/system.slice/rbee-podman.service", False),
        (HOST_S, "user.slice/user-9911.slice/session-2.scope", False),
    ],
    ids=[
        *("container", "container without a bus", "what keeps the namespace", "namespace in a container"),
        *("the user's manager", "the network's own namespace"),
        *("another Podman's", "Docker's", "Docker's of its own groups", "a service", "a namespace in another's"),
        *(
            "another rootless",
            "another number",
            "a service with users of its own",
            "one that was lent this id",
            "another order",
            "a host inside",
            "a unit of a host inside",
        ),
        "another user",
    ],
)
@pytest.mark.parametrize("lines", ["0::/{0}", LEGACY], ids=["unified", "legacy"])
def test_a_purge_ends_what_the_engine_runs_and_no_equal_number(
    lines: str, ids: str, group: str, ends: bool, tmp_path: Path
) -> None:
    """Whose a process is, its namespace or control group says: others have containers with these ids as well."""
    process = tmp_path / "proc" / "4711"
    process.mkdir(parents=True)
    rows = (f"{row.split()[0]:>10} {row.split()[1]:>10} {row.split()[2]:>10}\n" for row in ids.splitlines())
    (process / "uid_map").write_text("".join(rows))
    (process / "cgroup").write_text(lines.format(group) + "\n")
    done = purged_of_engine_s_user(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert process.exists() is not ends
    assert not (tmp_path / "store").exists()


def test_a_purge_waits_for_the_engine_s_own_alone(tmp_path: Path) -> None:
    """One of its processes that nothing ends keeps its user, and the purge says so in place of waiting for ever."""
    process = tmp_path / "proc" / "1"
    process.mkdir(parents=True)
    (process / "uid_map").write_text(f"{LENT}\n")
    done = purged_of_engine_s_user(tmp_path)
    assert (done.returncode, done.stderr) == (1, "processes of rbee-engine do not end\n")
    assert (tmp_path / "store").exists()


BUSY = '[ "$1" = --force ] && exit 0; echo "userdel: user is used by process 12" >&2; exit 8'


@pytest.mark.parametrize("userdel", [":", BUSY], ids=["in a container", "on the host"])
def test_a_user_goes_whose_number_others_have_and_they_run_on(userdel: str, tmp_path: Path) -> None:
    """Neither the purge nor userdel fails on their processes, and whoever purges is told which they are."""
    done = purged_of_engine_s_user(tmp_path, userdel=userdel, pgrep="echo 12 13")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "user rbee-engine is removed; processes of others with its id 991 run on: 12 13\n"


def test_with_the_models_every_user_goes_the_same_way(tmp_path: Path) -> None:
    """One that cannot be removed is said, and keeps none of the others."""
    lines = uninstall.script(host("gpu1"), models=True).splitlines()
    begin = lines.index("remove_user() {")
    part = [
        *lines[begin : lines.index("}", begin) + 1],
        *(line for line in lines if line.startswith("remove_user rbee")),
    ]
    busy = f'case $* in *queen*) echo "userdel: locked" >&2; exit 10;; *worker*) {BUSY};; esac'
    for name, text in {"id": "echo 992", "pgrep": "echo 12", "userdel": busy}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", "\n".join(part)], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "user rbee-queen could not be removed: userdel: locked",
        "user rbee-hive is removed; processes of others with its id 992 run on: 12",
        "user rbee-worker is removed; processes of others with its id 992 run on: 12",
    ]


def test_whoever_gets_the_id_of_the_engine_s_user_next_finds_nothing_of_it() -> None:
    """Its manager and the folder of its sockets are gone before the user is; by itself that folder would go later."""
    lines = uninstall.script(host("gpu1"), models=False).splitlines()
    stops = next(number for number, line in enumerate(lines) if "user@$uid.service" in line)
    assert lines[stops].count("user-runtime-dir@$uid.service") == 1
    assert stops < next(number for number, line in enumerate(lines) if "remove_user rbee-engine" in line)
