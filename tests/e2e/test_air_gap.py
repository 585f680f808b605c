"""A fleet and an operator without a network: everything comes out of one folder, or nothing happens."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbee_deploy.bundle.folder import Bundle, read
from rbee_deploy.bundle.manifest import Kind
from tests.e2e.fleets import Deployment, Fleet, small_fleet
from tests.e2e.test_changes import changes
from tests.unit.deploy_artefacts.bundles import flip
from tests.unit.models.sources.hub import Hub
from tests.unit.models.sources.servers import Server

pytestmark = [pytest.mark.lab, pytest.mark.full]

STATE = "ls -d /opt/rbee /etc/rbee /var/lib/rbee 2>/dev/null; getent passwd rbee-hive"
VISITS = "journalctl --no-pager -o cat -u ssh -u sshd | grep -c Accepted"


@dataclass
class Gap:
    """A fleet, its bundle, what the run said that made it, and one for hosts of another kind."""

    fleet: Fleet
    bundle: Bundle
    made: Deployment
    older: Bundle

    def apply(self, folder: Path, *words: str, command: str = "apply") -> Deployment:
        """Run the deploy on a machine that has a bundle and nothing else."""
        return self.fleet.rbee_deploy(command, "--bundle", str(folder), *words)


@pytest.fixture(scope="module")
def gap(smol_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gap]:
    """Give a queen and a GPU host, and their bundle, made while there was a network to fetch a model from."""
    out = tmp_path_factory.mktemp("air-gap")
    hub = Hub({"smol.gguf": smol_model.read_bytes() + b"\n"})
    with small_fleet("air") as fleet:
        with Server(hub.content, address=fleet.lab.gateway).running() as web:
            for declared in fleet.hosts.values():
                declared["store"] = {"plain_http_hosts": [fleet.lab.gateway], "spare": "100 MiB"}
            copied = shutil.copy(smol_model, out / "mine.gguf")
            fleet.models["mine"] = {"name": "mine", "source": f"file:{copied}", "context": 512}
            fleet.models["web"] = {"name": "web", "source": f"{web.url}/smol.gguf", "context": 512}
            made = fleet.rbee_deploy("bundle", "-o", str(out / "bundle"), "--from-hosts")
            older = fleet.rbee_deploy("bundle", "-o", str(out / "older"), "--target", "debian-12")
            assert (made.code, older.code) == (0, 0), made.errors + older.errors
        (out / "mine.gguf").unlink()
        fleet.environment.update(
            XDG_CACHE_HOME=str(out / "no-cache"), PIP_NO_INDEX="1", CXX="/nonexistent", HOME=str(out)
        )
        yield Gap(fleet, read(out / "bundle"), made, read(out / "older"))


def state(fleet: Fleet) -> dict[str, str]:
    """Return what every host has of rbee, and how often somebody logged in."""
    return {host.name: host.run(f"{STATE}; {VISITS}", check=False).stdout for host in fleet.lab.hosts.values()}


def test_hosts_say_for_whom_a_bundle_is_made(gap: Gap) -> None:
    """What the hosts are was asked of them, and the run printed the bundle's hash."""
    assert [(target.python, target.arch) for target in gap.bundle.manifest.targets] == [("3.13", "x86_64")]
    assert gap.made.output == f"bundle {gap.bundle.sha256}\n"


def test_a_tampered_bundle_changes_no_host(gap: Gap, tmp_path: Path) -> None:
    """A changed byte of a release, of the manifest or of a model ends the run before anybody logs in anywhere."""
    before = state(gap.fleet)
    # Whoever asked them for the bundle logged in.
    assert all(int(text.split()[-1]) > 0 for text in before.values())
    entries = [gap.bundle.manifest.of_kind(kind)[0].path for kind in (Kind.RELEASE, Kind.MODEL)]
    for name in (*entries, "bundle.json"):
        folder = shutil.copytree(gap.bundle.folder, tmp_path / "bundle")
        flip(folder / name, 1000)
        done = gap.apply(folder)
        assert (done.code, name in done.errors) == (1, True), done.errors
        shutil.rmtree(folder)
    assert state(gap.fleet) == before


def deployed(gap: Gap) -> None:
    """Deploy, which later tests of a shuffled order need as well."""
    done = gap.apply(gap.bundle.folder, "--bundle-sha256", gap.bundle.sha256)
    assert done.code == 0, done.errors
    for name in ("mine", "web"):
        gap.fleet.wait_ready(name)


@pytest.mark.parametrize("model", ["mine", "web"])
def test_a_bundle_serves_a_chat(gap: Gap, model: str) -> None:
    """With no network, no cache and no file of the model here, both kinds of model answer through the queen."""
    deployed(gap)
    answer = gap.fleet.client().chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say hello."}], max_tokens=4
    )
    assert answer.choices[0].message.content
    assert not Path(gap.fleet.environment["XDG_CACHE_HOME"]).exists()


def test_a_second_run_changes_nothing(gap: Gap) -> None:
    """The same bundle again is a deploy like any other: zero changes, and no hive is said to fetch."""
    deployed(gap)
    again = gap.apply(gap.bundle.folder, "--json")
    assert changes(again) == {}
    assert "fetches" not in gap.apply(gap.bundle.folder, command="plan").errors


def test_a_host_that_nothing_fits_is_told_what_to_run(gap: Gap) -> None:
    """A bundle for another Python fails the host in preflight, with the command that adds what it needs."""
    before = state(gap.fleet)
    done = gap.apply(gap.older.folder)
    assert done.code == 1
    for host in gap.fleet.lab.hosts:
        line = next(line for line in done.errors.splitlines() if line.startswith(host) and "preflight" in line)
        assert "has no release for Python 3.13 on x86_64 with glibc 2.41" in line
        assert f"-o {gap.older.folder} --target python=3.13,arch=x86_64,glibc=2.41, which adds it" in line
    after = state(gap.fleet)
    assert {name: text.splitlines()[:-1] for name, text in after.items()} == {
        name: text.splitlines()[:-1] for name, text in before.items()
    }
