"""Fleets that tests export."""

from typing import Any

from rbee_deploy.exports.write import Substrate, Wanted
from rbee_deploy.inventory import each_host, external, host, model, secret_env, simulated, store
from rbee_deploy.site import Site
from tests.unit.deploy.sites import one_box, site_of

GIB = 1 << 30


def three_hosts(**fields: Any) -> Site:
    """Return a control host and two GPU hosts, with something of all that an export has a word for."""
    hosts = (
        host(
            "queen",
            address="192.0.2.1",
            advertise="fd00::1",
            queen=True,
            hive=False,
            queen_port=8443,
            firewall="nftables",
        ),
        host(
            "GPU.one",
            address="192.0.2.2",
            advertise="fd00::2",
            labels={"nvidia.com/gpu": "2", "rack": "office"},
            store=store(quota="200 GiB"),
            hf_token=secret_env("EXPORT_HF_TOKEN"),
            worker_ports=(9100, 9107),
        ),
        host(
            "gpu2",
            address="192.0.2.3",
            advertise="fd00::3",
            labels={"nvidia.com/gpu": "1"},
            devices=[simulated("gpu0")],
            models_dir="/data/models",
        ),
    )
    models = (
        model("there", source="file:/srv/models/there.gguf", preseed=False, hosts=["gpu2"], context=2048),
        model("hub", source="hf:org/repo:model.gguf", hosts=["GPU.one", "gpu2"], pin=True),
        model("echo", source="fake:tokens=3", replicas=each_host),
    )
    server = external("ollama", url="http://192.0.2.9:11434", models=["m"], key=secret_env("EXPORT_OLLAMA_KEY"))
    given = {"external": [server], "clients": ["10.0.0.0/8", "fd00::/8"], "drain_seconds": 60, **fields}
    return site_of(*hosts, models=models, **given)


SITES = {Substrate.COMPOSE: three_hosts, Substrate.KUBERNETES: three_hosts, Substrate.POD: one_box}


def wanted(substrate: Substrate, **fields: Any) -> Wanted:
    """Return what a command line without options asks for."""
    return Wanted(substrate=substrate, **{"models_bytes": 100 * GIB, **fields})
