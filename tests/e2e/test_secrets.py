"""Secrets stay where they belong: nothing shows them, and only root and their process can read them."""

import pytest

from tests.e2e.fleets import Fleet

pytestmark = pytest.mark.lab

PLACES = (
    "/etc/systemd /run/systemd/system /var/lib/rbee /var/log /run/log /run/rbee-queen /run/rbee-hive "
    "/tmp /var/tmp /home"
)
WATCH = (
    "for i in $(seq 150); do "
    "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; sleep 0.1; done"
)


def canaries(fleet: Fleet) -> list[str]:
    """Return a telling part of every secret that the operator's machine holds."""
    folder = fleet.lab.directory / "secrets"
    keys = [path for path in folder.rglob("*") if path.is_file() and "PRIVATE KEY" in path.read_text()]
    assert len(keys) >= 4
    given = fleet.environment.values()
    return [fleet.api_key.rsplit("_", 1)[1], *given, *(path.read_text().splitlines()[1] for path in keys)]


def test_output_and_process_lists_show_no_secret(deployed: Fleet) -> None:
    """A deploy that places every secret anew, as loudly as pyinfra can, prints none and puts none into an argv."""
    host = deployed.lab.hosts["gpu1"]
    host.run("rm -rf /etc/rbee/credentials")
    host.run(f"({WATCH}) > /run/watched 2>&1 & echo started")
    loud = deployed.deploy("-vvv", "--debug", "--diff")
    seen = loud.output + loud.errors + host.run("cat /run/watched; rm /run/watched").stdout
    assert [canary[:6] for canary in canaries(deployed) if canary in seen] == []


@pytest.mark.parametrize("name", ["queen", "gpu1"])
def test_hosts_keep_no_stray_copy(deployed: Fleet, name: str) -> None:
    """Units, state, logs, journal and temporary folders of a host hold no secret."""
    host = deployed.lab.hosts[name]
    patterns = "\n".join(canaries(deployed)) + "\n"
    found = host.run(f"grep -rlaF -f /dev/stdin {PLACES} 2>/dev/null", check=False, input=patterns).stdout
    journal = host.run("journalctl --no-pager -o cat").stdout
    assert found == ""
    assert [canary[:6] for canary in canaries(deployed) if canary in journal] == []


@pytest.mark.parametrize("name", ["queen", "gpu1"])
def test_only_root_reads_credentials(deployed: Fleet, name: str) -> None:
    """Credential files are root's alone, and no file of ours that others can read holds a key."""
    host = deployed.lab.hosts[name]
    listed = host.run("stat -c '%a %U' /etc/rbee/credentials /etc/rbee/credentials/*").stdout.split("\n")
    assert {line for line in listed if line} <= {"700 root", "600 root"}
    loose = host.run(
        "find /etc/rbee /var/lib/rbee /opt/rbee -perm -o=r -type f -print0 | xargs -0 grep -laF 'PRIVATE KEY'",
        check=False,
    )
    assert [path for path in loose.stdout.splitlines() if "/etc/rbee" in path or "/var/lib" in path] == []
