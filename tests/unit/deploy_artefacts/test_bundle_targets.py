"""How kinds of host are written."""

import platform

import pytest

from rbee_deploy import packages
from rbee_deploy.artefacts import Target
from rbee_deploy.bundle import targets
from rbee_deploy.errors import DeployError


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("debian-13", ("3.13", "2.41")),
        ("el9", ("3.12", "2.34")),
        ("python=3.12,glibc=2.40", ("3.12", "2.40")),
        ("ubuntu-24.04,arch=aarch64", ("3.12", "2.39", "aarch64")),
        ("python=3.13,arch=aarch64,glibc=2.41", ("3.13", "2.41", "aarch64")),
        ("debian-12,python=3.13", ("3.13", "2.36")),
    ],
)
def test_targets_have_names(text: str, target: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution, the three facts, or one with a fact of its own; the processor is this machine's."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    python, glibc, *arch = target
    assert targets.parse(text) == Target(python=python, glibc=glibc, arch=arch[0] if arch else "x86_64")


FRESH = {
    "debian-12": [("debian", "12")],
    "debian-13": [("debian", "13")],
    "ubuntu-24.04": [("ubuntu", "24.04")],
    "fedora-42": [("fedora", "42")],
    "el9": [("rhel", "9.6"), ("rocky", "9.6"), ("almalinux", "9.6"), ("centos", "9"), ("ol", "9.6")],
    "el10": [("rhel", "10.0"), ("rocky", "10.0"), ("almalinux", "10.0"), ("centos", "10"), ("ol", "10.0")],
}
"""What /etc/os-release says on hosts of each name."""


@pytest.mark.parametrize("name", targets.DISTRIBUTIONS)
def test_a_named_target_is_a_fresh_host_of_it(name: str) -> None:
    """A host that has no Python yet gets the very one that its bundle is made for."""
    bare = [{"os_id": os_id, "os_version": version, "python": None} for os_id, version in FRESH[name]]
    assert {packages.python_to_be(raw) for raw in bare} == {targets.parse(name).python}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("debian-11", "'debian-11' in the target 'debian-11' is not understood: write one of debian-12, "),
        ("", "'' in the target '' is not understood"),
        ("debian-13,", "'' in the target 'debian-13,' is not understood"),
        ("python=2.7,glibc=2.41", "'python=2.7' in the target"),
        ("python=3.13", "does not say its glibc: write one of"),
        ("arch=x86_64", "does not say its glibc and python"),
        ("python=3.13,glibc=../../x", "is not understood"),
    ],
)
def test_a_target_that_is_none_is_one_sentence(text: str, words: str) -> None:
    """It repeats what is wrong and shows both ways to write one."""
    with pytest.raises(DeployError) as raised:
        targets.parse(text)
    assert words in str(raised.value)
