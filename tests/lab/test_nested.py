"""A lab inside a lab host: the user's machine has systemd as PID 1 and a network manager of its own."""

from pathlib import Path

import pytest

from tests.lab import Lab

pytestmark = pytest.mark.lab

REPOSITORY = Path(__file__).resolve().parent.parent.parent
INSIDE = """
import subprocess
from tests.lab import Lab, ensure_packages
ensure_packages()
with Lab.create("inner") as lab:
    host = lab.add_host("deep")
    host.reboot()
    host.hard_stop()
    host.boot()
    print(subprocess.run(host.ssh_argv("sudo hostname"), capture_output=True, text=True).stdout.strip())
    print(subprocess.run(["networkctl", "list", lab.name], capture_output=True, text=True).stdout)
"""
LEFT = """
ls /var/tmp/rbee-lab /run/systemd/network; ip -brief link | grep rbl; systemctl list-units --all --no-legend 'rbl*'
"""


def test_a_machine_with_systemd_can_run_a_lab() -> None:
    """An online host installs what the lab needs, boots a host of its own, and is clean afterwards."""
    with Lab.create("nesting") as lab:
        outer = lab.add_host("outer", online=True, nested=True, binds=[(REPOSITORY, "/srv/rbee", True)])
        outer.put(INSIDE, "/srv/inside.py")
        said = outer.run("cd /srv/rbee && PYTHONPATH=. python3 -B /srv/inside.py", timeout=300).stdout
        assert said.startswith("deep\n")
        assert "unmanaged" in said
        assert outer.run(LEFT, check=False).stdout.split() == ["/run/systemd/network:", "/var/tmp/rbee-lab:"]
        assert outer.run("systemctl is-system-running").stdout == "running\n"
