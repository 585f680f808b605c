import re

import pytest

from rbee_deploy import pins, pythons
from rbee_deploy.artefacts import Target
from rbee_deploy.errors import ArtefactError

FILES = sorted(path.name for path in pins.folder().glob("*.txt"))
TEXT = """\
# a comment
one==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
two==2.0 ; sys_platform == 'win32' \\
    --hash=sha256:cc
three==3.1.post1 ; python_full_version < '3.12' --hash=sha256:dd
"""


def test_pins_keep_version_marker_and_every_hash() -> None:
    """A requirement file reads as names, versions, markers and hashes."""
    one, two, three = pins.parse(TEXT, where="x.txt")
    assert one == pins.Pin(name="one", version="1.0", hashes=("sha256:aa", "sha256:bb"))
    assert two.marker == "sys_platform == 'win32'"
    assert (three.version, three.marker) == ("3.1.post1", "python_full_version < '3.12'")
    assert one.line() == "one==1.0 --hash=sha256:aa --hash=sha256:bb"


@pytest.mark.parametrize("line", ["one>=1.0 --hash=sha256:aa", "one==1.0", "--index-url x", "one @ file:///x"])
def test_a_loose_requirement_is_refused(line: str) -> None:
    """Nothing is downloaded that is not pinned by version and hash; the sentence names file and line."""
    with pytest.raises(ArtefactError, match=rf"^x\.txt: '{re.escape(line)}' is not pinned by version and hash"):
        pins.parse(line, where="x.txt")


@pytest.mark.parametrize(
    ("marker", "python", "expected"),
    [
        (None, "3.13", True),
        ("sys_platform == 'win32'", "3.13", False),
        ("python_full_version < '3.12'", "3.11", True),
        ("python_full_version < '3.12'", "3.12", False),
        ("python_version >= '3.13' and platform_machine == 'x86_64'", "3.13", True),
        ("implementation_name == 'pypy'", "3.13", False),
    ],
)
def test_markers_are_the_hosts_not_the_operators(marker: str | None, python: str, *, expected: bool) -> None:
    """Whether a pin applies depends on the host's Python, whatever runs the deployer."""
    pin = pins.Pin(name="x", version="1", hashes=("sha256:aa",), marker=marker)
    assert pins.applies(pin, Target(python=python)) is expected


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_file_is_pinned_and_names_no_host(name: str) -> None:
    """Requirement files hold nothing but pins, so that a machine's own settings say where packages come from."""
    assert pins.read(name)
    assert "://" not in (pins.folder() / name).read_text()


@pytest.mark.parametrize("python", pythons.versions())
def test_a_target_gets_one_version_of_each(python: str) -> None:
    """For every supported Python the runtime and the engine resolve to one version per distribution."""
    for name in ("runtime.txt", "llama-cpp.txt"):
        names = [pin.name for pin in pins.read(name, Target(python=python))]
        assert len(names) == len(set(names))


def test_a_missing_requirement_file_is_one_sentence() -> None:
    """A broken installation says which file is missing and what to do."""
    with pytest.raises(ArtefactError, match=r"^cannot read .*nothing\.txt: No such file.*reinstall rbee"):
        pins.read("nothing.txt")


def test_asking_for_an_unpinned_distribution_is_one_sentence() -> None:
    """A pin that code relies on and that is gone is named."""
    with pytest.raises(ArtefactError, match="pin nothing 0 times"):
        pins.only(pins.read("build.txt"), "nothing")
