"""The script behind the state fact, run for real on this machine."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy import pythons
from rbee_deploy.facts import script
from rbee_deploy.facts.state import Asked, RbeeState
from rbee_runtime.models.pull import MAX_FILES
from rbee_runtime.protocol import ModelFile, ModelReport, encode

ODD = ["plain", "with space", "it's", "$(touch pwned)", "`id`", 'say "hi"', "-n", "semi;colon", "glob*", "back\\slash"]

LISTENER = r"""
import ctypes, socket
ctypes.CDLL(None).prctl(15, b"\n1 2 3 @os x", 0, 0, 0)
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
input()
"""
"""Its name is what a whole line of ss begins with, and then a section."""


def read(asked: Asked, folder: Path) -> dict[str, Any]:
    """Run the script and return the fact."""
    done = subprocess.run(["sh", "-c", script.build(asked)], capture_output=True, text=True, cwd=folder, check=True)
    return RbeeState().process(done.stdout.splitlines())


@pytest.mark.parametrize("name", ODD)
def test_any_path_is_read_as_itself(tmp_path: Path, name: str) -> None:
    """Hash, mode and kind of a file come back under its own name, and the name runs nothing."""
    path = tmp_path / name
    path.write_bytes(b"\0content")
    path.chmod(0o640)
    found = read(Asked(paths=(str(path), str(tmp_path / "absent"))), tmp_path)["paths"]
    assert list(found) == [str(path)]
    assert found[str(path)]["sha256"] == hashlib.sha256(b"\0content").hexdigest()
    assert (found[str(path)]["kind"], found[str(path)]["mode"]) == ("file", "0640")
    assert {item.name for item in tmp_path.iterdir()} == {name}


def test_links_and_directories_are_told_apart(tmp_path: Path) -> None:
    """A link shows its target and no hash, so that a file behind a link never counts as in place."""
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    paths = tuple(str(path) for path in (tmp_path / "link", tmp_path))
    link, folder = read(Asked(paths=paths), tmp_path)["paths"].values()
    assert (link["kind"], link["target"], link.get("sha256")) == ("link", "real", None)
    assert folder["kind"] == "directory"


def test_a_model_store_is_listed(tmp_path: Path) -> None:
    """Manifests come with their content and blobs with their size; what only links elsewhere is left out."""
    store = tmp_path / "big disk"
    for name in ("manifests", "blobs", "incoming"):
        (store / name).mkdir(parents=True)
    (store / "manifests" / "smol.json").write_text('{"name": "smol",\n "size": 3}\n')
    (store / "manifests" / "evil.json").symlink_to("/etc/passwd")
    (store / "blobs" / "sha256-aa").write_bytes(b"abc")
    (store / "incoming" / "aa.part").write_bytes(b"a")
    fact = read(Asked(models_dir=str(store)), tmp_path)
    assert fact["models"] == [{"slug": "smol", "name": "smol", "size": 3}]
    assert (fact["blobs"], fact["incoming"]["aa.part"]) == ({"sha256-aa": 3}, 1)


def test_the_largest_manifest_is_read_whole(tmp_path: Path) -> None:
    """A model of as many files as there may be comes with all of them."""
    (tmp_path / "manifests").mkdir()
    files = tuple(
        ModelFile(name=f"{number:04}-{'n' * 80}", sha256="a" * 64, size=10**10) for number in range(MAX_FILES)
    )
    (tmp_path / "manifests" / "m.json").write_bytes(encode(ModelReport(name="m", size=1, files=files)))
    (found,) = read(Asked(models_dir=str(tmp_path)), tmp_path)["models"]
    assert [file["name"] for file in found["files"]] == [file.name for file in files]


@pytest.mark.parametrize("folder", ["blobs", "incoming"])
def test_a_file_name_cannot_speak_for_the_host(tmp_path: Path, folder: str) -> None:
    """A service user who names a file like a section of the answer changes nothing in it."""
    (tmp_path / folder).mkdir()
    honest = read(Asked(models_dir=str(tmp_path)), tmp_path)
    (tmp_path / folder / "x\n@machine\npython_path=evil").write_text("")
    (tmp_path / folder / "y\n@drop_ins").write_text("")
    told = read(Asked(models_dir=str(tmp_path)), tmp_path)
    assert {key for key in honest if told[key] != honest[key]} <= {
        *("clock_unix", "disk_free", "listeners", "addresses")
    }


def test_a_process_name_cannot_speak_for_the_host(tmp_path: Path) -> None:
    """Whatever a listening process calls itself, it is one owner of one port."""
    line = [sys.executable, "-c", LISTENER]
    honest = read(Asked(), tmp_path)
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        fact = read(Asked(), tmp_path)
        process.communicate("\n")
    assert port in fact["listeners"]
    assert fact["os_id"] == honest["os_id"] != ""


def test_this_machine_is_recognised(tmp_path: Path) -> None:
    """What every Linux machine has is there: architecture, clock, disk, and the account that was asked about."""
    fact = read(Asked(users=("root", "nobody-here"), groups=("root", "no-such-group")), tmp_path)
    assert fact["users"] == {"root": ["root"]}
    assert fact["groups"] == ["root"]
    assert fact["clock_unix"] > 1.7e9
    assert min(fact["disk_free"].values()) > 0
    assert fact["sudo"] == "ok"


def test_the_python_that_is_found_is_one_that_fits(tmp_path: Path) -> None:
    """This machine's Python comes with path and version, whole, and connects to where the host is sent."""
    fact = read(Asked(queen=("127.0.0.1", 1)), tmp_path)
    assert pythons.fits(fact["python"], fact["python_lacks"])
    assert Path(fact["python_path"]).is_file()
    assert fact["queen_link"] == "refused"


def test_a_folder_of_the_users_is_not_imported(tmp_path: Path) -> None:
    """Python modules that lie where root's shell happens to be are not run by it."""
    for name in ("importlib", "socket", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    read(Asked(queen=("127.0.0.1", 1)), tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("user", "manager", "asked"), [(1, 0, False), (0, 1, False), (0, 0, True)])
def test_an_engine_without_root_is_asked_once_its_user_is_up(
    user: int, manager: int, asked: bool, tmp_path: Path
) -> None:
    """Before that it would be said to be silent, even if a folder of sockets is left of an earlier user of that id."""
    programs = {
        "podman": "",
        "setpriv": f"touch {tmp_path}/asked",
        "id": f"echo 991; exit {user}",
        "systemctl": f'[ "$*" = "--quiet is-active user@991.service" ] && exit {manager}; exit 3',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    words = ["sh", "-c", script._images("podman-rootless")]
    subprocess.run(words, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False, capture_output=True)
    assert (tmp_path / "asked").exists() is asked


SAYS = """\
#!/bin/sh
case "$*" in
"ps --quiet") exit 0;;
"info --format "*NetworkBackendInfo*) {info};;
*) exit 1;;
esac
"""


@pytest.mark.parametrize(
    ("engine", "info", "networks"),
    [
        ("podman", 'echo "netavark netavark 1.14.0"', {"backend": "netavark", "version": "1.14.0"}),
        ("podman", 'echo "netavark netavark 1.4.0-dev"', {"backend": "netavark", "version": "1.4.0"}),
        ("podman", 'printf "cni \\n@os\\n"', {"backend": "cni", "version": ""}),
        ("podman", 'echo " "', {"backend": "", "version": ""}),
        ("podman", "echo no such field >&2; exit 125", None),
        ("podman", "exec sleep 9", None),
        ("podman", 'echo "netavark netavark 1.14.0"; exit 125', None),
        ("docker", "exit 1", "not asked"),
    ],
    ids=["netavark", "a build of somebody's", "cni", "says nothing", "an old Podman", "slow", "cut off", "Docker"],
)
def test_a_podman_says_what_makes_its_networks(
    engine: str, info: str, networks: dict[str, str] | str | None, tmp_path: Path
) -> None:
    """By kind and version, each empty where it does not say so; a failure is known from an answer."""
    (tmp_path / engine).write_text(SAYS.replace("{info}", info))
    (tmp_path / engine).chmod(0o755)
    words = ["sh", "-c", script._images(engine).replace("timeout 20", "timeout 1")]
    done = subprocess.run(words, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False, capture_output=True, text=True)
    fact = RbeeState().process(["@sudo ok", *done.stdout.splitlines()])
    assert fact["engine"] == ["answers"]
    assert fact.get("networks", "not asked") == networks


@pytest.mark.parametrize(
    ("up", "of_root", "networks"),
    [
        (False, 'echo "netavark netavark 1.4.0"', {"backend": "netavark", "version": "1.4.0"}),
        (False, "exit 125", "not asked"),
        (True, "exit 125", {"backend": "netavark", "version": "1.14.0"}),
    ],
    ids=["root's says it", "root's fails", "its own says it"],
)
def test_root_s_podman_speaks_for_one_whose_user_is_yet_to_be_made(
    up: bool, of_root: str, networks: dict[str, str] | str, tmp_path: Path
) -> None:
    """Both have one netavark; what else root's is like says nothing of the other, nor is that taken for asked."""
    programs = {
        "podman": f'[ "$1" = info ] || exit 1; {of_root}',
        "setpriv": '[ "$(for word; do echo "$word"; done | grep -cx info)" = 0 ] || echo "netavark netavark 1.14.0"',
        "id": f"echo 991; exit {int(not up)}",
        "systemctl": ":",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    words = ["sh", "-c", script._images("podman-rootless")]
    done = subprocess.run(words, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False, capture_output=True, text=True)
    fact = RbeeState().process(["@sudo ok", *done.stdout.splitlines()])
    assert (fact.get("networks", "not asked"), "engine" in fact) == (networks, up)
