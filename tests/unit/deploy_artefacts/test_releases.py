import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import rbee_runtime
from rbee_deploy import artefacts, installs, own_wheel, releases
from rbee_deploy.artefacts import Artefact, Target
from rbee_deploy.errors import ArtefactError
from rbee_deploy.releases import build_release, install_script, uv_binary

pytestmark = pytest.mark.slow

HERE = Target.this_machine()


def quiet(line: str) -> None:
    """Drop progress."""


@pytest.fixture(scope="module")
def release() -> Artefact:
    return build_release(None, HERE, say=quiet)


@pytest.fixture(scope="module")
def installed(release: Artefact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack and install the release with uv from its artefact, as a host does; half of an older one is in the way."""
    root = tmp_path_factory.mktemp("host")
    (root / "venv" / "lib").mkdir(parents=True)
    for artefact in (release, uv_binary(HERE, say=quiet)):
        subprocess.run(["tar", "-C", root, "-xf", artefact.archive], check=True)
    for command in install_script(str(root), str(root / "venv"), uv=str(root / "uv"), python=f"python{HERE.python}"):
        subprocess.run(command, check=True, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}, capture_output=True)
    return root / "venv"


def test_a_release_is_named_by_version_and_content(release: Artefact) -> None:
    """The id is `<version>-<hash8>`, and size and hash are the archive's."""
    version, _, content = release.id.rpartition("-")
    assert version == rbee_runtime.__version__
    assert len(content) == 8
    assert release.size == release.archive.stat().st_size
    assert release.sha256 == artefacts.file_sha256(release.archive)


def test_a_release_lists_every_wheel_with_its_hash(release: Artefact) -> None:
    """What a host installs is pinned wheel by wheel, rbee's own among them, and nothing else is in the tar."""
    with tarfile.open(release.archive) as tar:
        members = {member.name for member in tar if member.isfile()}
        listing = tar.extractfile("requirements.txt")
        assert listing is not None
        lines = listing.read().decode().splitlines()
    wheels = {name for name in members if name.startswith("wheels/") and name.endswith(".whl")}
    assert members - wheels == {"release.json", "requirements.txt"}
    assert len(lines) == len(wheels) > 15
    assert all(line.count(" --hash=sha256:") == 1 for line in lines)
    assert any(line.startswith(f"rbee=={rbee_runtime.__version__} ") for line in lines)


def test_a_release_installs_offline_and_is_marked_last(installed: Path) -> None:
    """The installed venv has the commands, runs our code, and release.json names what it is."""
    manifest = json.loads((installed / "release.json").read_text())
    assert manifest["python"] == HERE.python
    assert (installed / "bin" / "rbee-worker").read_text().startswith(f"#!{installed}/bin/python")
    assert {path.name for path in installed.parent.iterdir() if path.name.startswith(".")} == set()
    assert [path for path in installed.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022] == []
    code = "import rbee_runtime, fastapi, uvloop, msgspec; print(rbee_runtime.__file__)"
    done = subprocess.run([installed / "bin" / "python", "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(installed))


def test_an_installed_rbee_gives_the_same_release(release: Artefact, installed: Path, tmp_path: Path) -> None:
    """The wheel made from an installed copy is byte for byte the one made from its checkout."""
    code = (
        "import sys; from pathlib import Path; from rbee_deploy.own_wheel import own_wheel; "
        "print(own_wheel(None, Path(sys.argv[1])))"
    )
    deployer = next(path for path in sys.path if path.endswith("site-packages"))
    done = subprocess.run(
        [installed / "bin" / "python", "-I", "-c", f"import sys; sys.path.append({deployer!r}); {code}", tmp_path],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    again = Path(done.stdout.strip())
    with tarfile.open(release.archive) as tar:
        kept = tar.extractfile(f"wheels/{again.name}")
        assert kept is not None
        assert kept.read() == again.read_bytes()


def test_install_commands_are_offline_and_checked() -> None:
    """The commands are offline and hash-checked, make it beside its place, and put it there when it is on the disk."""
    steps = install_script("/a", "/opt/rbee/releases/x", uv="/a/uv", python="/usr/bin/python3.13")
    *_, venv, install, _unlock, _scripts, mark, _listing, sync, exchange = steps
    made = installs.made_in("/opt/rbee/releases/x")
    assert venv[:2] == ("/a/uv", "venv")
    assert venv[-1] == made
    assert {"--offline", "--no-index", "--require-hashes", "--no-deps", "--no-cache"} <= set(install)
    assert mark == ("install", "-m", "0644", "/a/release.json", f"{made}/release.json")
    assert sync == ("sync", "-f", made)
    assert exchange[-1] == "/opt/rbee/releases/x"


def test_another_version_is_refused() -> None:
    """An inventory that asks for a version which is not at hand gets a sentence with both ways out."""
    with pytest.raises(ArtefactError) as raised:
        build_release("9.9.9", HERE)
    assert str(raised.value) == (
        f"the inventory asks for rbee 9.9.9 but this is {rbee_runtime.__version__}: "
        "use the checkout or package of 9.9.9, or drop version= from fleet()"
    )


def small_checkout(root: Path) -> Path:
    real = Path(own_wheel.__file__).parent.parent
    for name in ("pyproject.toml", "LICENSE"):
        root.mkdir(exist_ok=True)
        shutil.copy(real / name, root / name)
    for package in ("rbee_deploy", "rbee_runtime", "templates", "requirements", "containerfiles"):
        (root / package).mkdir()
        (root / package / "__init__.py").write_text(f'"""{package}."""\n')
    return root


def wheel_of(root: Path, cache: Path) -> bytes:
    return own_wheel._from_checkout(root, "0.1.0", cache, quiet).read_bytes()


def test_the_wheel_follows_the_sources_and_nothing_else(tmp_path: Path) -> None:
    """A rebuild elsewhere gives the same bytes; a changed line other bytes; bytecode and tests do not count."""
    one, two = small_checkout(tmp_path / "one"), small_checkout(tmp_path / "two")
    first = wheel_of(one, tmp_path / "c1")
    (two / "tests").mkdir()
    (two / "tests" / "test_x.py").write_text("x = 1\n")
    (two / "rbee_runtime" / "__pycache__").mkdir()
    (two / "rbee_runtime" / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"x")
    assert wheel_of(two, tmp_path / "c2") == first
    (two / "rbee_runtime" / "__init__.py").write_text("x = 1\n")
    assert wheel_of(two, tmp_path / "c2") != first


def test_an_unchanged_checkout_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run only reads the sources."""
    root = small_checkout(tmp_path / "one")
    first = wheel_of(root, tmp_path / "c")
    monkeypatch.setattr(own_wheel, "run", lambda *_args, **_kwargs: pytest.fail("built again"))
    assert wheel_of(root, tmp_path / "c") == first


def test_uv_comes_as_one_executable(tmp_path: Path) -> None:
    """The uv artefact is a tar with one executable file that runs."""
    artefact = uv_binary(HERE, say=quiet)
    subprocess.run(["tar", "-C", tmp_path, "-xf", artefact.archive], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["uv"]
    done = subprocess.run([tmp_path / "uv", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == artefact.id.split("-")[1]


def test_releases_names_are_what_others_import() -> None:
    """The public names of the module are the ones the deployer uses."""
    assert set(releases.__all__) == {"Artefact", "Target", "build_release", "install_script", "uv_binary"}


def test_a_release_that_another_run_may_be_sending_stays(tmp_path: Path) -> None:
    """However many are made within an hour, none is taken from under a deploy."""
    for number in range(releases.KEPT + 5):
        (tmp_path / f"release-{number}.tar").touch()
    releases._prune(tmp_path / "release-0.tar")
    assert len(list(tmp_path.iterdir())) == releases.KEPT + 5


def test_old_releases_leave_the_cache(tmp_path: Path) -> None:
    """Only the newest archives are kept, and other artefacts are left alone."""
    for number in range(releases.KEPT + 2):
        archive = tmp_path / f"release-{number}.tar"
        archive.touch()
        os.utime(archive, (number, number))
    (tmp_path / "uv-1.tar").touch()
    releases._prune(archive)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"uv-1.tar", *(f"release-{number}.tar" for number in range(2, releases.KEPT + 2))}
