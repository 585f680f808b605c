"""Artefacts for hosts of another architecture and another Python than the operator's."""

import io
import json
import tarfile
import zipfile

import pytest

from rbee_deploy import pins, pythons, releases, wheels
from rbee_deploy.artefacts import Artefact, Target

ARM = Target(python="3.13", arch="aarch64", glibc="2.41")
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
"""`e_machine` in the header of an ELF file."""


def quiet(line: str) -> None:
    """Drop progress."""


def machine(content: bytes) -> int:
    """Return the architecture that an ELF file says it is for."""
    assert content[:4] == b"\x7fELF"
    return int.from_bytes(content[18:20], "little")


def members(artefact: Artefact) -> dict[str, bytes]:
    with tarfile.open(artefact.archive) as tar:
        read = {item.name: tar.extractfile(item) for item in tar if item.isfile()}
        return {name: stream.read() for name, stream in read.items() if stream is not None}


def test_every_tag_of_an_arm_host_is_arms() -> None:
    """A wheel for another architecture is never asked for, whatever the operator's machine is."""
    tags = wheels.platform_tags(ARM)
    assert tags[0] == "manylinux_2_41_aarch64"
    assert all(tag.endswith("_aarch64") for tag in tags)


@pytest.mark.parametrize(("arch", "expected"), [("aarch64", True), ("x86_64", False)])
def test_pins_are_chosen_by_the_hosts_architecture(arch: str, *, expected: bool) -> None:
    """A marker on the machine is judged for the host."""
    pin = pins.Pin(name="x", version="1", hashes=("sha256:aa",), marker="platform_machine == 'aarch64'")
    assert pins.applies(pin, Target(arch=arch)) is expected


@pytest.mark.parametrize("name", ["runtime.txt", "bootstrap.txt"])
def test_an_arm_host_gets_one_version_of_each(name: str) -> None:
    """The pins of a release and of its installer are whole on ARM."""
    names = [pin.name for pin in pins.read(name, ARM)]
    assert len(names) == len(set(names)) > 0
    assert set(names) >= {pin.name for pin in pins.read(name, Target(python=ARM.python)) if pin.marker is None}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ELF_MACHINES)
def test_uv_is_a_program_for_the_hosts_architecture(arch: str) -> None:
    """The one executable of the artefact is an ELF file of the host's kind, and the name says so."""
    artefact = releases.uv_binary(Target(arch=arch), say=quiet)
    assert f"-{arch}-" in artefact.id
    assert {name: machine(content) for name, content in members(artefact).items()} == {"uv": ELF_MACHINES[arch]}


@pytest.mark.slow
def test_a_whole_release_for_an_arm_host_is_arms() -> None:
    """Every library in every wheel of the release is for ARM, and the release says for what it is."""
    files = members(releases.build_release(None, ARM, say=quiet))
    assert json.loads(files["release.json"])["arch"] == "aarch64"
    kinds = set()
    for name, content in files.items():
        if name.endswith(".whl"):
            with zipfile.ZipFile(io.BytesIO(content)) as wheel:
                kinds |= {machine(wheel.read(item)) for item in wheel.namelist() if item.endswith(".so")}
    assert kinds == {ELF_MACHINES["aarch64"]}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ELF_MACHINES)
def test_the_newest_python_has_every_wheel(arch: str) -> None:
    """What preflight lets in can be given a release, on the oldest glibc that it meets."""
    target = Target(python=pythons.versions()[-1], arch=arch, glibc="2.34")
    wanted = pins.read("runtime.txt", target)
    assert len(list(wheels.download(wanted, target, say=quiet).glob("*.whl"))) == len(wanted)
