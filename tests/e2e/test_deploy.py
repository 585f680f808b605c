"""What goes wrong on real hosts: one sentence each, exit status 1, and the other hosts are done."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = """
from rbee_deploy.inventory import each_host, fleet, host, model, secret_env

_ssh = {{"ssh_user": "ops", "ssh_key": {key!r}, "ssh_known_hosts_file": {known!r}, "ssh_host_keys": "strict"}}
queen, hives = fleet(
    "trouble",
    hosts=[{hosts}],
    models=[model("echo", source="fake:tokens=3", replicas=each_host), {models}],
    client_endpoint="plain-http",
    secrets_dir={secrets!r},
)
"""


STORE = "/var/lib/rbee/models"


@dataclass(frozen=True)
class Trouble:
    """A host with something wrong: what is done to it, how it is declared, what the report says."""

    says: str
    prepare: str = "true"
    fields: str = ""


TROUBLES = {
    "away": Trouble("cannot connect to", "systemctl stop ssh"),
    "locked": Trouble("correct ssh_user or ssh_key", "rm -rf /home/ops/.ssh"),
    "swapped": Trouble(
        "its host key changed", "rm /etc/ssh/ssh_host_*; ssh-keygen -A >/dev/null; systemctl restart ssh"
    ),
    "nosudo": Trouble("sudo refused nosudo", fields="'ssh_user': 'nosudo'"),
    "asks": Trouble("sudo refused opspw", fields="'ssh_user': 'opspw'"),
    "wrong": Trouble("correct its sudo_password", fields="'ssh_user': 'opspw', 'sudo_password': secret_env('WRONG')"),
    "naked": Trouble("sudo is not installed", "mv /usr/bin/sudo /usr/bin/away"),
    "snakeless": Trouble("it has no Python", "rm /usr/bin/python3*"),
    "full": Trouble("0.0 GiB free and needs", "mkdir -p /opt/rbee && mount -t tmpfs -o size=20m tmpfs /opt/rbee"),
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


@dataclass
class Site:
    """Hosts of a lab and the inventory that names them."""

    lab: Lab
    fields: dict[str, str] = field(default_factory=dict)
    models: str = ""

    def add(self, name: str, fields: str = "") -> LabHost:
        """Boot a host and declare it."""
        self.fields[name] = fields
        return self.lab.add_host(name)

    @property
    def inventory(self) -> Path:
        """Return the inventory, written as the hosts are now declared."""
        hosts = ", ".join(
            f"host({name!r}, **{{**_ssh, 'address': {self.lab.hosts[name].address!r}, 'engines': [], {fields}}})"
            for name, fields in self.fields.items()
        )
        values = {"key": str(self.lab.ssh_key), "known": str(self.lab.known_hosts), "hosts": hosts}
        path = self.lab.directory / "trouble.py"
        path.write_text(INVENTORY.format(**values, models=self.models, secrets=str(self.lab.directory / "secrets")))
        return path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a rbee-deploy command."""
        return self._run("rbee-deploy", words[0], "-i", str(self.inventory), *words[1:])

    def pyinfra(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the plain pyinfra command."""
        return self._run("pyinfra", str(self.inventory), str(ROOT / "rbee_deploy" / "deploy.py"), *words)

    def _run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name(program)), *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=300,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT), "WRONG": "canary", "RIGHT": LabHost.sudo_password},
        )


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Give a queen, a GPU host whose sudo asks for a password, both deployed."""
    with Lab.create("trouble") as lab:
        site = Site(lab)
        site.add("box1", "'queen': True")
        site.add("box2", "'ssh_user': 'opspw', 'sudo_password': secret_env('RIGHT')")
        done = site.run("apply")
        assert done.returncode == 0, done.stderr
        yield site


def line(text: str, host: str, stage: str) -> str:
    """Return the report's line of a host and stage."""
    return next((found for found in text.splitlines() if re.match(rf"{host} +{stage} ", found)), "")


def test_a_password_for_sudo_works_and_is_not_seen(site: Site) -> None:
    """A host whose sudo asks converges with one command, and nothing that was printed holds the password."""
    done = site.run("apply")
    assert "box2  1 remote command" in done.stderr
    assert "two words" not in done.stdout + done.stderr


def test_every_trouble_is_one_sentence_and_nobody_elses(site: Site) -> None:
    """Each host that cannot be deployed says why in one line; the two that can are verified; exit status 1."""
    for name, trouble in TROUBLES.items():
        site.add(name, trouble.fields).run(trouble.prepare)
    try:
        done = site.run("apply")
    finally:
        for name in TROUBLES:
            site.lab.remove_host(site.lab.hosts[name])
            del site.fields[name]
    assert done.returncode == 1
    lines = {name: line(done.stderr, name, "(connect|preflight)") for name in TROUBLES}
    wrong = {name: text for name, text in lines.items() if TROUBLES[name].says not in text or "failed" not in text}
    assert wrong == {}, done.stderr
    assert all("failed" not in line(done.stderr, good, "verify") for good in ("box1", "box2"))
    assert "canary" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_that_does_not_start_shows_its_journal(site: Site) -> None:
    """The report has the unit's own last lines and what to do; the queen's host is untouched; then it heals."""
    drop_in = "/etc/systemd/system/rbee-hive.service.d/broken.conf"
    box2, pid = site.lab.hosts["box2"], "systemctl show -p MainPID --value rbee-queen.service"
    queen = site.lab.hosts["box1"].run(pid).stdout
    box2.put("[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo the reason why; exit 3'\n", drop_in)
    box2.run("systemctl daemon-reload; systemctl stop rbee-hive.service")
    done = site.run("apply")
    assert done.returncode == 1
    assert "rbee-hive.service did not become ready" in line(done.stderr, "box2", "activate hives")
    assert "the reason why" in done.stderr.split("remote command")[0].split("activate hives")[-1]
    assert site.lab.hosts["box1"].run(pid).stdout == queen
    box2.run(f"rm {drop_in}")
    assert site.run("apply").returncode == 0


@pytest.mark.parametrize(("damaged", "pieces"), [(False, [">>", ">>"]), (True, [">", ">>", ">>"])])
def test_an_interrupted_upload_goes_on(site: Site, tmp_path: Path, damaged: bool, pieces: list[str]) -> None:
    """A model of which a part arrived is completed, not sent again, unless that part is not its beginning."""
    content, model, box2 = os.urandom(1 << 20) * 150, tmp_path / "model.gguf", site.lab.hosts["box2"]
    model.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    part = f"{STORE}/incoming/{digest}.part"
    box2.run(f"runuser -u rbee-hive -- mkdir -p {STORE}/incoming")
    box2.run(f"runuser -u rbee-hive -- tee {part} >/dev/null", input=b"x" * damaged + content[: 40 << 20])
    site.models = f"model('big', source='file:{model}', hosts=['box2'])"
    site.fields["box2"] += ", 'engines': ['llama-cpp']" * ("engines" not in site.fields["box2"])
    done = site.pyinfra("-y", "-vv")
    assert done.returncode == 0, done.stderr
    assert re.findall(rf"cat (>+)incoming/{digest}", done.stderr) == pieces
    assert box2.run(f"sha256sum <{STORE}/blobs/sha256-{digest}").stdout.split()[0] == digest
    assert box2.run(f"ls {STORE}/incoming").stdout == ""


def test_the_api_key_is_found(site: Site) -> None:
    """`rbee-deploy api-key` prints where the first key is, and the key only when asked."""
    site.models = ""
    path = Path(site.run("api-key").stdout.strip())
    assert path.read_text().startswith("rbee_")
    assert site.run("api-key", "--show").stdout == path.read_text()
