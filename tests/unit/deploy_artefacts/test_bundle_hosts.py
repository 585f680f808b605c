"""What hosts are found to be that a bundle is made for by asking them."""

from tests import unpatched  # noqa: F401, I001 - before what loads pyinfra

from types import SimpleNamespace
from typing import Any

import pytest

from rbee_deploy.artefacts import Target
from rbee_deploy.bundle import hosts
from rbee_deploy.here import Here

EL9 = {"os_id": "rocky", "os_version": "9.6", "arch": "x86_64", "glibc": "2.34"}
DEBIAN = {"os_id": "debian", "os_version": "13", "arch": "aarch64", "glibc": "2.41"}
ELSEWHERE = {"os_id": "arch", "os_version": "", "arch": "x86_64", "glibc": "2.42"}


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        ({**EL9, "python": "3.9"}, ("3.12", "x86_64", "2.34")),
        ({**EL9, "python": "3.12"}, ("3.12", "x86_64", "2.34")),
        ({**DEBIAN, "python": None}, ("3.13", "aarch64", "2.41")),
        ({**DEBIAN, "python": "3.13", "python_lacks": "venv"}, ("3.13", "aarch64", "2.41")),
        ({**ELSEWHERE, "python": "3.13"}, ("3.13", "x86_64", "2.42")),
        ({**ELSEWHERE, "python": None}, None),
        ({"python": "3.13"}, None),
    ],
    ids=["a fresh EL 9", "EL 9", "a fresh Debian", "parts of Python", "elsewhere", "none to be had", "it did not say"],
)
def test_a_bundle_is_for_the_python_that_a_deploy_will_find(
    raw: dict[str, Any], target: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that setup is still to give a Python is asked like one that has it."""
    item = SimpleNamespace(connector_data={})
    here = SimpleNamespace(host=item, facts=SimpleNamespace(raw=raw))
    monkeypatch.setattr(Here, "of_context", classmethod(lambda _: here))
    hosts.look()
    python, arch, glibc = target or ("", "", "")
    expected = {hosts.FOUND: Target(python=python, arch=arch, glibc=glibc)} if target else {}
    assert item.connector_data == expected
