"""Fleets that several tests render and check."""

from pathlib import Path
from typing import Any

from rbee_deploy.images.kinds import Kind
from rbee_deploy.images.manifest import Image
from rbee_deploy.inventory import each_host, fleet, host, model, store
from rbee_deploy.render import Certificate, SiteState
from rbee_deploy.secrets import Secret
from rbee_deploy.site import Host, Model, Site
from rbee_runtime.protocol import ModelFile

IMAGES = str(Path(__file__).parent / "images")
"""A folder that says that it has no image; what is rendered from one is in the states below."""

IMAGE = Image(
    name=Kind.WORKER_LLAMA_CPP,
    version="0.1.0",
    arch="x86_64",
    id=f"sha256:{'c' * 64}",
    tag="localhost/rbee-worker-llama-cpp:0.1.0",
    engine="llama-cpp-0.3.36-cpu-x86_64_v3-01234567",
)
ROLE_IMAGES = tuple(
    Image(
        name=kind,
        version="0.1.0",
        arch="x86_64",
        id=f"sha256:{letter * 64}",
        tag=kind.tag("0.1.0"),
        release="0.1.0-89abcdef",
    )
    for kind, letter in ((Kind.QUEEN, "a"), (Kind.HIVE, "b"))
)
WAITS: dict[str, Any] = {
    "drain_seconds": 30,
    "queue_wait_seconds": 20,
    "first_byte_seconds": 900,
    "silence_seconds": 45,
    "log_format": "json",
}
FILE = ModelFile(name="smol.gguf", sha256="ab" * 32, size=98_000_000)


def site_of(*hosts: Host, models: tuple[Model, ...] = (), **fields: Any) -> Site:
    """Return the site that an inventory with these hosts gives."""
    queen, _ = fleet(fields.pop("name", "test"), hosts=list(hosts), models=list(models), **fields)
    site = queen[0][1]["rbee"].site
    assert isinstance(site, Site)
    return site


def one_box(**fields: Any) -> Site:
    """Return the commonest fleet at its smallest: queen and hive on one host, every kind of model."""
    smol = model("smol", source="file:/srv/smol.gguf", preseed=False, replicas=(1, 2), labels={"gpu": "a"}, slots=2)
    echo = model("org/echo:1", source="fake:tokens=3", replicas=each_host, load_wait=60, options={"load_s": 1})
    box = host("box1", address="192.0.2.10", queen=True, labels={"gpu": "a"})
    return site_of(box, models=(smol, echo), **fields)


def two_hosts() -> Site:
    """Return a control host and a GPU host with nothing at its default."""
    queen = host("queen", address="192.0.2.1", advertise="fd00::1", queen=True, hive=False, queen_port=443 + 8000)
    gpu = host("gpu1", address="192.0.2.2", models_dir="/home/me/models", hive_port=8700, worker_ports=(9100, 9120))
    return site_of(queen, gpu, client_endpoint="plain-http", **WAITS)


def state_of(
    site: Site, *, release: str = "0.1.0-01234567", version: str = "1", podman: str | None = "5.4.2"
) -> SiteState:
    """Return a state with a made-up certificate for every role of every host."""
    roles = ("queen", "hive", "worker", "client")
    made = {
        (role, item.name): Certificate(f"PEM {role} {item.name}", Secret(f"canary-{role}"), version)
        for item in site.hosts
        for role in roles
    }
    images = (*ROLE_IMAGES, IMAGE) if site.images is not None else ()
    key = "0123abcd:" + "0" * 64
    return SiteState(release, "PEM ca", key, made, {"smol": (FILE,)}, images=images, podman=podman)


def write_model(folder: Path) -> str:
    """Return the source of a file that exists."""
    path = folder / "model.gguf"
    path.write_bytes(b"GGUF")
    return f"file:{path}"


def fenced() -> Site:
    """Return a fleet of three hosts, each with another firewall, and clients from two networks."""
    queen = host("queen", address="192.0.2.1", advertise="fd00::1", queen=True, firewall="nftables")
    first = host("gpu1", address="192.0.2.2", advertise="fd00::2", firewall="ufw", hive_port=8700)
    second = host("gpu2", address="192.0.2.3", advertise="fd00::3", worker_ports=(9100, 9100), firewall="firewalld")
    return site_of(queen, first, second, clients=["10.0.0.0/8", "fd00::/8"])


def contained() -> Site:
    """Return a fleet whose workers are containers, of each engine, one with models that lie elsewhere as well."""
    caches = store(hf_caches=["/home/ops/.cache/huggingface"])
    box = host("box1", address="192.0.2.1", queen=True, worker_runtime="container", store=caches)
    gpu = host(
        "gpu1",
        address="203.0.113.9",
        worker_runtime="container",
        engine="docker",
        worker_ports=(9100, 9120),
        worker_memory="48 GiB",
    )
    return site_of(box, gpu, images=IMAGES, client_endpoint="plain-http")


def housed() -> Site:
    """Return a fleet whose queens and hives are containers, of each engine, and a hive that reads models elsewhere."""
    caches = store(hf_caches=["/srv/hub"])
    box = host("box1", address="192.0.2.1", queen=True, mode="container", store=caches, models_dir="/data/models")
    gpu = host("gpu1", address="203.0.113.9", mode="container", engine="docker")
    there = model("there", source="file:/srv/models/there.gguf", preseed=False, hosts=["box1"])
    return site_of(box, gpu, images=IMAGES, models=(there,))


def housed_without_root() -> Site:
    """Return a fleet whose queen and hive are containers of a Podman without root."""
    box = host("box1", address="192.0.2.1", queen=True, mode="container", rootless=True)
    return site_of(box, images=IMAGES)


def housed_by_docker() -> Site:
    """Return a fleet of one host whose queen and hive are containers of Docker."""
    box = host("box1", address="192.0.2.1", queen=True, mode="container", engine="docker")
    return site_of(box, images=IMAGES, client_endpoint="plain-http")
