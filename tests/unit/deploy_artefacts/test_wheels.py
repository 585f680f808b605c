from pathlib import Path

import pytest

from rbee_deploy import pins, wheels
from rbee_deploy.artefacts import Target
from rbee_deploy.errors import ArtefactError


def quiet(line: str) -> None:
    """Drop progress."""


def test_platform_tags_stop_at_the_hosts_glibc() -> None:
    """A wheel for a newer glibc than the host's is never asked for; the newest that fits comes first."""
    tags = wheels.platform_tags(Target(glibc="2.28", arch="aarch64"))
    assert tags[0] == "manylinux_2_28_aarch64"
    assert "manylinux_2_17_aarch64" in tags
    assert "manylinux2014_aarch64" in tags
    assert not any("2_29" in tag or "x86_64" in tag for tag in tags)


def test_downloads_are_binary_hashed_and_without_dependencies() -> None:
    """Nothing is built, resolved or accepted unhashed while downloading."""
    command = wheels.download_command(Path("r.txt"), Path("out"), Target(python="3.12", glibc="2.6"))
    assert command[len(wheels.PIP) :] == (
        "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:",
        "--python-version", "3.12", "--implementation", "cp",
        "--abi", "cp312", "--abi", "abi3", "--abi", "none",
        "--platform", "manylinux_2_6_x86_64", "--platform", "manylinux_2_5_x86_64",
        "--platform", "manylinux2014_x86_64", "--platform", "manylinux2010_x86_64", "--platform", "linux_x86_64",
        "--dest", "out", "--requirement", "r.txt",
    )  # fmt: skip


@pytest.mark.parametrize("target", [Target(python="3.11"), Target(python="3.13", arch="aarch64")], ids=str)
def test_a_download_holds_a_wheel_that_fits_the_target(target: Target, tmp_path: Path) -> None:
    """The host's Python and architecture decide which wheel comes, not the operator's."""
    pin = pins.only(pins.read("runtime.txt", target), "httptools")
    (wheel,) = wheels.download([pin], target, tmp_path, say=quiet).glob("*.whl")
    tag = f"cp{target.python.replace('.', '')}"
    assert wheel.name.startswith(f"httptools-{pin.version}-{tag}-")
    assert wheel.name.endswith(f"_{target.arch}.whl")


def test_a_second_download_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the cache is not asked for again."""
    wanted = [pins.only(pins.read("runtime.txt"), "h11")]
    folder = wheels.download(wanted, None, tmp_path, say=quiet)
    monkeypatch.setattr(wheels, "run", lambda *_args, **_kwargs: pytest.fail("downloaded again"))
    assert wheels.download(wanted, None, tmp_path) == folder


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    """A package that was changed after it was pinned does not get in, and nothing of it is kept."""
    real = pins.only(pins.read("runtime.txt"), "h11")
    forged = pins.Pin(name=real.name, version=real.version, hashes=(f"sha256:{'0' * 64}",))
    with pytest.raises(ArtefactError, match=rf"^could not download h11 {real.version} \(exit status 1\):"):
        wheels.download([forged], None, tmp_path, say=quiet)
    assert [path for path in (tmp_path / "wheels").iterdir() if path.is_dir()] == []
