"""Secrets stay where they belong: nothing shows them, and only root and their process can read them."""

import base64
import os
import subprocess
from dataclasses import dataclass, field

import pytest

from tests.e2e.fleets import Deployment, Fleet
from tests.e2e.processes import Watch

pytestmark = pytest.mark.lab

PLACES = (
    "/etc/systemd /etc/rbee /run/systemd/system /run/rbee* /var/lib/rbee /var/log /run/log /tmp /var/tmp /home /root"
)
FILES = f"find {PLACES} /opt/rbee \\( -path /etc/rbee/credentials -o -path '/opt/rbee/*/lib' \\) -prune -o -type f"
LOUD = ("-vvv", "--debug", "--diff")
DROP_IN = "/etc/systemd/system/rbee-hive.service.d/broken.conf"
BROKEN = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo the reason why; exit 3'\n"
CONTROL = "canary-that-is-to-be-seen"
"""Planted where secrets are looked for, to know that they would be found."""


@dataclass
class Day:
    """What a fleet said and ran while secrets were placed, replaced and in reach of what failed."""

    runs: dict[str, Deployment] = field(default_factory=dict)
    words: str = ""
    secrets: set[str] = field(default_factory=set)


def canaries(fleet: Fleet) -> set[str]:
    """Return a telling part of every secret that the operator's machine holds, as it is and as files travel."""
    folder = fleet.lab.directory / "secrets"
    keys = [path.read_text() for path in folder.rglob("*") if path.is_file() and "PRIVATE KEY" in path.read_text()]
    assert len(keys) >= 4
    given = list(fleet.environment.values())
    coded = [base64.b64encode(text.encode()).decode() for text in (*given, *keys)]
    api = [path.read_text().strip().rsplit("_", 1)[1] for path in folder.glob("api-key*")]
    return {*api, *given, *(key.splitlines()[1] for key in keys), *(text[:100][-60:-4] for text in coded)}


@pytest.fixture(scope="module")
def day(deployed: Fleet) -> Day:
    """Give all that was seen while a fleet got every secret anew, a service did not start, and the API key changed."""
    found, hosts = Day(secrets=canaries(deployed)), deployed.lab.hosts
    with Watch(apart=tuple(deployed.environment)) as watch:
        subprocess.run(["sleep", "0.5"], env={**os.environ, "CONTROL": f"{CONTROL}-operator"}, check=True)
        for name in ("queen", "gpu1"):
            hosts[name].run(f"rm -rf /etc/rbee/credentials; sh -c 'sleep 0.5; : {CONTROL}-{name}'")
        found.runs["deploy"] = deployed.deploy(*LOUD, check=False)
        hosts["gpu1"].put(BROKEN, DROP_IN)
        hosts["gpu1"].run("systemctl daemon-reload; systemctl stop rbee-hive.service")
        found.runs["failing deploy"] = deployed.deploy(*LOUD, check=False)
        hosts["gpu1"].run(f"rm {DROP_IN}; systemctl daemon-reload")
        found.runs["rotate"] = deployed.rbee_deploy("rotate", "api-key", "-v")
        found.secrets |= canaries(deployed)
        found.runs["revoke"] = deployed.rbee_deploy("rotate", "api-key", "--revoke-old", "-v")
        found.runs["rollback"] = deployed.rbee_deploy("rollback", "-v")
        found.runs["apply"] = deployed.rbee_deploy("apply", "--json")
    found.words = watch.words
    deployed.wait_ready("smol")
    deployed.wait_ready("slow", 2)
    return found


def shown(found: Day, text: str) -> list[str]:
    """Return the beginnings of the secrets that a text shows."""
    return [secret[:6] for secret in found.secrets if secret in text]


def test_nothing_that_is_printed_shows_a_secret(day: Day) -> None:
    """Not even as loudly as pyinfra can, with the journal of what failed, or as a document."""
    assert {name: run.code for name, run in day.runs.items() if run.code} == {"failing deploy": 1, "rollback": 1}
    assert "the reason why" in day.runs["failing deploy"].errors
    told = {name: shown(day, run.output + run.errors) for name, run in day.runs.items()}
    assert {name: secrets for name, secrets in told.items() if secrets} == {}


def test_no_process_is_called_with_a_secret(day: Day) -> None:
    """No argument or variable on a host or the operator's machine holds one but the variable that is read for it."""
    machines = ("operator", "queen", "gpu1")
    assert [name for name in machines if f"{CONTROL}-{name}" not in day.words] == []
    assert shown(day, day.words) == []


@pytest.mark.parametrize("name", ["queen", "gpu1"])
def test_hosts_keep_no_stray_copy(deployed: Fleet, day: Day, name: str) -> None:
    """Units, state, logs, journal, temporary and home folders of a host hold no secret, and neither do our programs."""
    host = deployed.lab.hosts[name]
    control = f"/opt/rbee/{CONTROL}"
    search = f"cat >/run/sought; {FILES} -print0 | xargs -0 grep -laF -f /run/sought; rm /run/sought {control}"
    host.run(f"echo {CONTROL} >{control}")
    assert host.run(search, input="\n".join([*day.secrets, CONTROL]) + "\n").stdout == f"{control}\n"
    journal = host.run("journalctl --no-pager -o export").stdout
    assert "COMMAND=" in journal
    assert shown(day, journal) == []


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
