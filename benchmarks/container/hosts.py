"""Four equal lab hosts on this machine, each with one worker of the same real model: two bare, one of each engine.

They share the processors, so that one alone is kept busy at a time; a host differs from the others by one word of its
inventory, and also a bare one has both engines installed.
"""

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.container.results import CONTAINERS, Way
from rbee_deploy.images import manifest
from rbee_deploy.model_files import lab_model
from tests.container_images import lab_images
from tests.e2e.fleets import Fleet, wait_for
from tests.lab import Lab

MIB = 1 << 20
CONTEXT = 2048
START_SECONDS = 180.0
"""Four of them start at the same time after the deploy, maybe on two busy processors."""

POLL_SECONDS = 0.02
REQUEST_SECONDS = 120.0
HELPERS = "conmon,containerd-shim,docker-proxy"
"""What runs beside each container as long as it does; the engines' daemons and the guard are there once a host."""


@contextmanager
def deployed(threads: int) -> Iterator[tuple[Fleet, dict[str, float]]]:
    """Give the fleet, with every worker ready, and the size of each image in MiB."""
    images = lab_images()
    sizes = {image.name.value: image.size / MIB for image in manifest.read(images).images}
    with Lab.create("bench") as lab:
        fleet = Fleet(lab)
        fleet.options |= {"images": str(images)}
        for way in Way:
            fields = {"worker_runtime": "container", "engine": way.value} if way in CONTAINERS else {}
            fleet.declare(lab.add_host(way.value, image="containers"), queen=way is Way.BARE, **fields)
            fleet.models[way] = {
                "name": model_of(way),
                "source": f"file:{lab_model()}",
                "hosts": [way.value],
                "context": CONTEXT,
                "options": {"threads": threads},
            }
        try:
            fleet.deploy()
            for way in Way:
                fleet.wait_ready(model_of(way), seconds=START_SECONDS)
            yield fleet, sizes
        finally:
            fleet.close()


def model_of(way: Way) -> str:
    """Return the name of the model that only this host has, so that its worker can be nowhere else."""
    return f"smol-{way}"


def restart(fleet: Fleet, way: Way) -> float:
    """End a host's worker and return the seconds from asking the queen for it again to its hive calling it ready.

    The model's file is in the memory of the machine by then, as after any restart but that of the machine. The hive
    looks every 0.25 s, the same for all ways.
    """
    with client(fleet) as http:
        hive = _hive(fleet, way)
        fleet.admin(f"hives/{way}/drain", method="POST")
        wait_for(f"the end of the worker on {way}", lambda: not _workers(http, hive), seconds=START_SECONDS)
        begun = time.perf_counter()
        fleet.admin(f"hives/{way}/undrain", method="POST")
        wait_for(
            f"a ready worker on {way}",
            lambda: any(worker["state"] == "ready" for worker in _workers(http, hive)),
            seconds=START_SECONDS,
            every=POLL_SECONDS,
        )
        return time.perf_counter() - begun


def idle_mib(fleet: Fleet, way: Way) -> float:
    """Return the resident memory of a worker and of what runs beside its container, in MiB."""
    host, unit = fleet.lab.hosts[way], worker_of(fleet, way)["unit"]
    if way in CONTAINERS:
        pid = host.run(f"{way} inspect --format '{{{{.State.Pid}}}}' {unit}").stdout
        helpers = host.run(f"ps -o rss= -C {HELPERS}").stdout
    else:
        pid, helpers = host.run(f"systemctl show --value --property MainPID {unit}").stdout, ""
    worker = host.run(f"ps -o rss= -p {pid.strip()}").stdout
    return sum(int(word) for word in f"{worker} {helpers}".split()) / 1024


def url_of(fleet: Fleet, way: Way) -> str:
    """Return where a host's worker answers now."""
    worker = worker_of(fleet, way)
    return f"https://{worker['address']}:{worker['port']}"


def worker_of(fleet: Fleet, way: Way) -> dict[str, Any]:
    """Return what a host's hive says of its worker."""
    with client(fleet) as http:
        (worker,) = _workers(http, _hive(fleet, way))
    return worker


def client(fleet: Fleet) -> httpx.Client:
    """Return a client that hives and workers take for the queen, as only she may ask them."""
    secrets = fleet.lab.directory / "secrets"
    return httpx.Client(
        verify=_context(secrets, secrets / "hosts" / Way.BARE), trust_env=False, timeout=REQUEST_SECONDS
    )


def _context(secrets: Path, queen: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Certificates of a fleet name roles and not addresses.
    context.check_hostname = False
    context.load_verify_locations(secrets / "ca.pem")
    context.load_cert_chain(queen / "queen.pem", queen / "queen.key")
    return context


def _hive(fleet: Fleet, way: Way) -> str:
    return next(str(hive["url"]) for hive in fleet.admin("hives") if hive["name"] == way)


def _workers(http: httpx.Client, hive: str) -> list[dict[str, Any]]:
    """Ask the hive itself: what the queen knows of a worker that was just ended or asked for is a moment old."""
    found: list[dict[str, Any]] = http.get(f"{hive}/api/v1/workers").raise_for_status().json()
    return found
