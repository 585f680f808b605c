"""A fleet of lab hosts under test: an inventory that tests edit, the real deploy command, and clients."""

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx

from tests.lab import Lab, LabHost

if TYPE_CHECKING:
    import openai

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "rbee_deploy" / "deploy.py"
INVENTORY = """
import json
from pathlib import Path

from rbee_deploy.inventory import command_engine, each_host, external, fleet, host, model
from rbee_deploy.inventory import recorded, secret_env, simulated, store

declared = json.loads((Path(__file__).parent / "declared.json").read_text())
for item in declared["models"]:
    if item.get("replicas") == "each_host":
        item["replicas"] = each_host
for item in [*declared["hosts"], declared["fleet"]]:
    secrets = {"sudo_password", "hf_token", "object_store", "registry_auth"} & item.keys()
    item.update({name: secret_env(item[name]) for name in secrets})
for item in declared["hosts"]:
    if "store" in item:
        item["store"] = store(**item["store"])
    item["devices"] = [simulated(**device) for device in item.get("devices", [])]
    if "recording" in item:
        item["devices"] = recorded(item.pop("recording"))
declared["fleet"]["command_engines"] = [command_engine(**item) for item in declared["fleet"].get("command_engines", ())]
queen, hives = fleet(
    "e2e",
    hosts=[host(**item) for item in declared["hosts"]],
    models=[model(**item) for item in declared["models"]],
    external=[eval(line.removesuffix(",")) for line in declared["external"]],
    **declared["fleet"],
)
"""
DEPLOY_SECONDS = 300
READY_SECONDS = 90


def wait_for(what: str, condition: Callable[[], Any], *, seconds: float = READY_SECONDS, every: float = 0.2) -> Any:
    """Return the first true value of `condition`, or fail saying what did not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(every)
    message = f"{what} did not come within {seconds:.0f} s"
    raise AssertionError(message)


@dataclass
class Deployment:
    """One run of the deploy command."""

    code: int
    output: str
    errors: str
    seconds: float

    @property
    def report(self) -> dict[str, Any]:
        """Return what `--json` printed."""
        found: dict[str, Any] = json.loads(self.output)
        return found


@dataclass
class Fleet:
    """Hosts of one lab, and what their inventory declares; `sources` is the checkout that they are deployed from."""

    lab: Lab
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    external: list[str] = field(default_factory=list)
    """Lines as `rbee-deploy adopt` prints them."""

    options: dict[str, Any] = field(default_factory=lambda: {"client_endpoint": "plain-http"})
    environment: dict[str, str] = field(default_factory=dict)
    clients: list[httpx.Client] = field(default_factory=list)
    sources: Path = ROOT
    seconds: float = DEPLOY_SECONDS
    """A run of a command takes at most."""

    @property
    def inventory(self) -> Path:
        """Return the inventory file, written as the fleet is now declared."""
        folder = self.lab.directory / "inventory"
        folder.mkdir(exist_ok=True)
        options = {"secrets_dir": str(self.lab.directory / "secrets"), **self.options}
        declared = {"hosts": [*self.hosts.values()], "models": [*self.models.values()], "fleet": options}
        declared["external"] = self.external
        (folder / "declared.json").write_text(json.dumps(declared))
        (folder / "fleet.py").write_text(INVENTORY)
        return folder / "fleet.py"

    def declare(self, machine: LabHost, **fields: Any) -> None:
        """Add a lab host to the inventory; secrets are named by a variable of the environment."""
        self.hosts[machine.name] = {
            "name": machine.name,
            "address": machine.address,
            "ssh_user": machine.ssh_user,
            "ssh_key": str(self.lab.ssh_key),
            "ssh_known_hosts_file": str(self.lab.known_hosts),
            "ssh_host_keys": "strict",
            **fields,
        }

    def give_models(self, model: Path) -> None:
        """Declare a real model for each host, `smol-NAME`, and a scripted one for all, `slow`, with streams of 5 s."""
        for name in self.hosts:
            self.models[name] = {"name": f"smol-{name}", "source": f"file:{model}", "hosts": [name], "context": 2048}
        self.models["slow"] = {
            "name": "slow",
            "source": "fake:tokens_per_s=20,slots=8,tokens=100",
            "slots": 8,
            "replicas": "each_host",
        }

    def command(self, *arguments: str) -> list[str]:
        """Return the deploy command that users type."""
        deploy = self.sources / DEPLOY.relative_to(ROOT)
        return [str(Path(sys.executable).parent / "pyinfra"), str(self.inventory), str(deploy), "--yes", *arguments]

    def deploy(self, *arguments: str, check: bool = True) -> Deployment:
        """Run the deploy command."""
        result = self._run(self.command(*arguments))
        if check:
            assert result.code == 0, f"{result.output}\n{result.errors}"
        return result

    def rbee_deploy(self, command: str, *arguments: str) -> Deployment:
        """Run a command of rbee-deploy."""
        program = str(Path(sys.executable).parent / "rbee-deploy")
        return self._run([program, command, "-i", str(self.inventory), *arguments])

    @property
    def surroundings(self) -> dict[str, str]:
        """Return the environment in which its commands run."""
        return {**os.environ, "PYTHONPATH": str(self.sources), **self.environment}

    def _run(self, command: list[str]) -> Deployment:
        started = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.sources,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=self.seconds,
            env=self.surroundings,
        )
        return Deployment(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    @property
    def queen(self) -> LabHost:
        """Return the queen's host."""
        name = next(item["name"] for item in self.hosts.values() if item.get("queen"))
        return self.lab.hosts[name]

    @property
    def url(self) -> str:
        """Return the queen's client endpoint."""
        scheme = "http" if self.options.get("client_endpoint") == "plain-http" else "https"
        return f"{scheme}://{self.queen.address}:8500"

    @property
    def api_key(self) -> str:
        """Return the first API key."""
        return (self.lab.directory / "secrets" / "api-key").read_text().strip()

    @property
    def trust(self) -> Any:
        """Return what an HTTP client verifies the queen with."""
        if self.url.startswith("http://"):
            return False
        return ssl.create_default_context(cafile=str(self.lab.directory / "secrets" / "ca.pem"))

    def client(self, *, key: str | None = None) -> "openai.OpenAI":
        """Return an official client of the queen that lives as long as the fleet."""
        import openai  # noqa: PLC0415 - a second of imports that tests without hosts do without

        http = httpx.Client(verify=self.trust, trust_env=False, timeout=60)
        self.clients.append(http)
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=key or self.api_key,
            max_retries=0,
            http_client=cast("Any", http),  # it takes clients of httpx as well, which its types do not say
        )

    def close(self) -> None:
        """Close every client."""
        for http in self.clients:
            http.close()

    def admin(self, path: str, *, method: str = "GET", **body: Any) -> Any:
        """Call the queen's admin API and return its JSON."""
        answer = httpx.request(
            method,
            f"{self.url}/api/v1/{path}",
            headers={"authorization": f"Bearer {self.api_key}"},
            json=body or None,
            verify=self.trust,
            timeout=30,
            trust_env=False,
        )
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def workers(self, model: str | None = None, *, state: str = "ready") -> list[dict[str, Any]]:
        """Return the workers that the queen sees in a state."""
        try:
            found = self.admin("workers")
        except httpx.HTTPError:
            return []
        rows: list[dict[str, Any]] = found["data"] if isinstance(found, dict) else found
        return [row for row in rows if row["state"] == state and model in (None, row["model"])]

    def wait_ready(self, model: str, count: int = 1, *, seconds: float = READY_SECONDS) -> list[dict[str, Any]]:
        """Return the model's ready workers once there are `count` of them."""
        found: list[dict[str, Any]] = wait_for(
            f"{count} ready worker(s) of {model}",
            lambda: rows if len(rows := self.workers(model)) == count else None,
            seconds=seconds,
        )
        return found


@contextmanager
def small_fleet(label: str, *, queen_is_hive: bool = False, gpu_hosts: int = 1, **options: Any) -> Iterator[Fleet]:
    """Give a fresh, undeployed fleet: a queen and some GPU hosts."""
    with Lab.create(label) as lab:
        fleet = Fleet(lab)
        fleet.options.update(options)
        fleet.declare(lab.add_host("queen"), queen=True, hive=queen_is_hive)
        for number in range(1, gpu_hosts + 1):
            fleet.declare(lab.add_host(f"gpu{number}"))
        try:
            yield fleet
        finally:
            fleet.close()
