"""A real hive in its own rendered unit on a host with a container engine, and the queen's side of its API."""

import contextlib
import json
import ssl
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rbee_deploy.render import template_text
from rbee_runtime import ports
from tests.lab import LabHost
from tests.unit.certificates import issue_fleet

FLEET = "boxes"
HIVE = "hive"
MODEL = "echo"
UNITS = "rbee.target rbee-hive.service rbee-workers.service"
DROP_IN = "/etc/systemd/system/rbee-hive.service.d/containers.conf"
LOADED = "[Service]\n" + "".join(f"LoadCredential={n}:{ports.CREDENTIALS}/{n}\n" for n in ("worker.pem", "worker.key"))
SECONDS = 30.0
"""A worker is ready two seconds after its start; many things run beside this."""

SETTINGS = """
fleet: {fleet}
name: {hive}
launcher: {engine}
advertise: {address}
link_dir: /run/credentials/rbee-hive.service
containers: {{images: {{fake: {{image: "rbee-worker:lab"}}}}, {containers}}}
"""


def wait_for(what: str, condition: Callable[[], Any], *, seconds: float = SECONDS) -> Any:
    """Return the first true value of `condition`; an API that is away for a moment is asked again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if found := condition():
                return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {seconds:g} s")


@dataclass
class HiveBox:
    """One host and the hive on it; `certificates` holds those of the queen."""

    host: LabHost
    engine: str
    certificates: Path
    revision: int = 0

    def configure(self, containers: str = "") -> None:
        """Write the hive's settings with further ones of its containers; it reads them at its next start."""
        about = {"fleet": FLEET, "hive": HIVE, "engine": self.engine, "address": self.host.address}
        self.host.put(SETTINGS.format(containers=containers, **about), "/etc/rbee/hive.yaml")

    @property
    def queen(self) -> ssl.SSLContext:
        """Return what the queen shows and demands."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.certificates / "ca.pem")
        context.load_cert_chain(self.certificates / "queen.pem", self.certificates / "queen.key")
        return context

    def ask(self, path: str, *, method: str = "GET", port: int = ports.HIVE_PORT, **options: Any) -> httpx.Response:
        """Call the hive as the queen does, or with a worker's `port` that worker."""
        with httpx.Client(verify=self.queen, trust_env=False, timeout=10) as client:
            return client.request(method, f"https://{self.host.address}:{port}{path}", **options)

    def lines(self, path: str) -> Generator[str]:
        """Yield the lines of an answer that goes on."""
        with (
            httpx.Client(verify=self.queen, trust_env=False, timeout=SECONDS) as client,
            client.stream("GET", f"https://{self.host.address}:{ports.HIVE_PORT}{path}") as answer,
        ):
            yield from answer.iter_lines()

    @property
    def units(self) -> str:
        """Return the units of the engine."""
        return f"{self.engine}.socket {self.engine}.service"

    @property
    def bring_back(self) -> str:
        """Return the command that starts the engine, however often it was started within the last minute.

        Docker's unit takes three starts in 60 s, and then its socket fails as well.
        """
        return f"systemctl reset-failed {self.units}; systemctl start {self.engine}.socket"

    def want(self, *workers: str, **scripted: dict[str, str]) -> None:
        """Have the hive follow a document with these workers, and with further ones of these scripts."""
        self.revision += 1
        scripts = {**{each: {} for each in workers}, **scripted}
        specs = [{"id": each, "model": MODEL, "engine": "fake", "options": scripts[each]} for each in scripts]
        models = [{"name": MODEL, "source": "fake:"}]
        about = {"fleet": FLEET, "hive": HIVE, "epoch": time.time_ns(), "revision": self.revision}
        answer = self.ask("/api/v1/desired", method="PUT", json={**about, "workers": specs, "models": models})
        assert answer.status_code == 200, answer.text

    def worker(self, name: str) -> dict[str, Any]:
        """Return the hive's details of a worker."""
        found: dict[str, Any] = self.ask(f"/api/v1/workers/{name}").json()
        return found

    def detail(self, name: str) -> str:
        """Return why a worker is in its state, "" for one that the hive has not heard of yet."""
        said: str = self.worker(name).get("report", {}).get("detail", "")
        return said

    def reach(self, name: str, state: str, *, but: int | None = None) -> dict[str, Any]:
        """Return the details of a worker once it is in a state, in a process other than `but`."""

        def there() -> dict[str, Any] | None:
            found = self.worker(name)
            here = found.get("report", {}).get("state") == state and (but is None or found["pid"] != but)
            return found if here else None

        try:
            found: dict[str, Any] = wait_for(f"{name} {state}", there)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.worker(name)}") from None
        return found

    def containers(self) -> dict[str, str]:
        """Return the state of each worker's container as the engine's own command shows it, by name."""
        said = self.host.run(f"{self.engine} ps --all --format '{{{{.Names}}}} {{{{.State}}}}'").stdout
        found = dict(line.split()[:2] for line in said.splitlines())
        return {name: state for name, state in found.items() if name.startswith("rbee-worker-")}

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what the engine's own command says of a worker's container."""
        found: list[dict[str, Any]] = json.loads(self.host.run(f"{self.engine} inspect rbee-worker-{name}").stdout)
        return found[0]

    def trouble(self) -> str:
        """Return what keeps the hive from its work, in its own words."""
        said: str = self.ask("/api/v1/info").json()["detail"]
        return said


def make_box(host: LabHost, engine: str, certificates: Path) -> HiveBox:
    """Start the hive of a host whose accounts, folders, units, release and image are there."""
    issue_fleet(certificates, FLEET)
    for name in ("ca.pem", "hive.pem", "hive.key", "worker.pem", "worker.key"):
        host.put((certificates / name).read_bytes(), str(ports.CREDENTIALS / name), mode=0o600)
    box = HiveBox(host, engine, certificates)
    box.configure()
    host.put(LOADED, DROP_IN)
    stopping = template_text("systemd/rbee-workers.service.j2", ports=ports, container_engine=engine)
    host.put(stopping, "/etc/systemd/system/rbee-workers.service")
    host.run(f"systemctl daemon-reload && systemctl enable {UNITS} && systemctl start rbee.target")
    wait_for("the hive", lambda: box.ask("/ready").status_code == 200)
    return box
