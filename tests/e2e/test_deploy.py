"""What goes wrong on real hosts: one sentence each, exit status 1, and the other hosts are done."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleets import Fleet
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

STORE = "/var/lib/rbee/models"


@dataclass(frozen=True)
class Trouble:
    """A host with something wrong: what is done to it, how it is declared, what the report says."""

    says: str
    prepare: str = "true"
    fields: dict[str, Any] = field(default_factory=dict)


TROUBLES = {
    "away": Trouble("cannot connect to", "systemctl stop ssh"),
    "locked": Trouble("correct ssh_user or ssh_key", "rm -rf /home/ops/.ssh"),
    "swapped": Trouble(
        "its host key changed", "rm /etc/ssh/ssh_host_*; ssh-keygen -A >/dev/null; systemctl restart ssh"
    ),
    "nosudo": Trouble("sudo refused nosudo", fields={"ssh_user": "nosudo"}),
    "asks": Trouble("sudo refused opspw", fields={"ssh_user": "opspw"}),
    "wrong": Trouble("correct its sudo_password", fields={"ssh_user": "opspw", "sudo_password": "WRONG"}),
    "naked": Trouble("sudo is not installed", "mv /usr/bin/sudo /usr/bin/away"),
    "snakeless": Trouble("python3 is installed but python3 does not start", "rm /usr/bin/python3*"),
    "full": Trouble("20 MiB free and needs", "mkdir -p /opt/rbee && mount -t tmpfs -o size=20m tmpfs /opt/rbee"),
    "busy": Trouble(
        "port 8600 (also a default port of Consul) is taken by nc",
        'systemd-run -q python3 -c \'import socket, time, ctypes; ctypes.CDLL(None).prctl(15, b"nc", 0, 0, 0);'
        ' s = socket.create_server(("", 8600)); time.sleep(600)\'',
    ),
    "late": Trouble(
        "s behind this machine's",
        "printf '#!/bin/sh\\necho 1700000000\\n' >/usr/local/sbin/date && chmod 755 /usr/local/sbin/date",
    ),
}


@pytest.fixture(scope="module")
def site() -> Iterator[Fleet]:
    """Give a queen, and a GPU host whose sudo asks for a password, both deployed."""
    with Lab.create("trouble") as lab:
        site = Fleet(lab, environment={"WRONG": "canary", "RIGHT": LabHost.sudo_password})
        site.models["echo"] = {"name": "echo", "source": "fake:tokens=3", "replicas": "each_host"}
        site.declare(lab.add_host("box1"), queen=True, engines=[])
        site.declare(lab.add_host("box2"), ssh_user="opspw", sudo_password="RIGHT", engines=[])
        done = site.rbee_deploy("apply")
        assert done.code == 0, done.errors
        yield site


def line(text: str, host: str, stage: str) -> str:
    """Return the report's line of a host and stage."""
    return next((found for found in text.splitlines() if re.match(rf"{host} +{stage} ", found)), "")


def test_a_password_for_sudo_works_and_is_not_seen(site: Fleet) -> None:
    """A host whose sudo asks converges with one command, and nothing that was printed holds the password."""
    done = site.rbee_deploy("apply")
    assert "box2  1 remote command" in done.errors
    assert "two words" not in done.output + done.errors


def test_every_trouble_is_one_sentence_and_nobody_elses(site: Fleet) -> None:
    """Each host that cannot be deployed says why in one line; the two that can are verified; exit status 1."""
    for name, trouble in TROUBLES.items():
        machine = site.lab.add_host(name)
        site.declare(machine, **{"engines": [], **trouble.fields})
        machine.run(trouble.prepare)
    try:
        done = site.rbee_deploy("apply")
    finally:
        for name in TROUBLES:
            site.lab.remove_host(site.lab.hosts[name])
            del site.hosts[name]
    assert done.code == 1
    lines = {name: next(re.finditer(rf"^{name} .* failed .*", done.errors, re.MULTILINE), [""])[0] for name in TROUBLES}
    wrong = {name: text for name, text in lines.items() if TROUBLES[name].says not in text}
    assert wrong == {}, done.errors
    assert all("failed" not in line(done.errors, good, "verify") for good in ("box1", "box2"))
    assert "canary" not in done.errors
    assert "Traceback" not in done.errors


def test_a_service_that_does_not_start_shows_its_journal(site: Fleet) -> None:
    """The report has the unit's own last lines and what to do; the queen's host is untouched; then it heals."""
    drop_in = "/etc/systemd/system/rbee-hive.service.d/broken.conf"
    box2, pid = site.lab.hosts["box2"], "systemctl show -p MainPID --value rbee-queen.service"
    queen = site.lab.hosts["box1"].run(pid).stdout
    box2.put("[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo the reason why; exit 3'\n", drop_in)
    box2.run("systemctl daemon-reload; systemctl stop rbee-hive.service")
    done = site.rbee_deploy("apply")
    assert done.code == 1
    assert "rbee-hive.service did not become ready" in line(done.errors, "box2", "activate hives")
    assert "the reason why" in done.errors.split("remote command")[0].split("activate hives")[-1]
    assert site.lab.hosts["box1"].run(pid).stdout == queen
    box2.run(f"rm {drop_in}")
    assert site.rbee_deploy("apply").code == 0


def test_what_a_person_changed_beside_our_files_is_named(site: Fleet) -> None:
    """A drop-in for the workers' unit fails the host with its path, even before a worker runs, until it is gone."""
    drop_in, box2 = "/etc/systemd/system/rbee-worker@.service.d/mine.conf", site.lab.hosts["box2"]
    box2.put("[Service]\nNice=1\n", drop_in)
    done = site.rbee_deploy("apply")
    box2.run(f"rm {drop_in}; systemctl daemon-reload")
    assert done.code == 1
    assert f"{drop_in} changes how a unit of rbee runs" in line(done.errors, "box2", "verify")
    assert site.rbee_deploy("apply").code == 0


@pytest.mark.parametrize(("damaged", "pieces"), [(False, ["on", "on"]), (True, ["anew", "on", "on"])])
def test_an_interrupted_upload_goes_on(site: Fleet, tmp_path: Path, damaged: bool, pieces: list[str]) -> None:
    """A model of which a part arrived is completed, not sent again, unless that part is not its beginning."""
    content, model, box2 = os.urandom(1 << 20) * 150, tmp_path / "model.gguf", site.lab.hosts["box2"]
    model.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    part = f"{STORE}/incoming/{digest}.part"
    box2.run(f"runuser -u rbee-hive -- mkdir -p {STORE}/incoming")
    box2.run(f"runuser -u rbee-hive -- tee {part} >/dev/null", input=b"x" * damaged + content[: 40 << 20])
    site.models["big"] = {"name": "big", "source": f"file:{model}", "hosts": ["box2"]}
    site.hosts["box2"]["engines"] = ["llama-cpp"]
    done = site.deploy("-vv")
    sent = re.findall(rf"(rm -f incoming/{digest}.part|= \d+ \]) && {{ cat >>incoming/{digest}", done.errors)
    assert ["anew" if begins.startswith("rm") else "on" for begins in sent] == pieces
    assert box2.run(f"sha256sum <{STORE}/blobs/sha256-{digest}").stdout.split()[0] == digest
    assert box2.run(f"ls {STORE}/incoming").stdout == ""


def test_the_api_key_is_found(site: Fleet) -> None:
    """`rbee-deploy api-key` prints where the first key is, and the key only when asked."""
    site.models.pop("big", None)
    path = Path(site.rbee_deploy("api-key").output.strip())
    assert path.read_text().startswith("rbee_")
    assert site.rbee_deploy("api-key", "--show").output == path.read_text()
