"""A real registry of images on a lab host, which wants credentials and has a certificate of its own."""

import base64
import json
import os
import shutil
import tempfile
from pathlib import Path

from rbee_deploy.images import manifest, publish
from tests.container_images import lab_images, podman_on
from tests.e2e.fleets import Fleet
from tests.lab import LabHost

USER, PASSWORD = "ops", "two words"
HASHED = "$2b$05$aN6/Mvb32RPxyLJEtar1jOBWC/3o0HuYRYOZ3JdE.aVK7Cbp/JWmi"
"""Of that password, as htpasswd makes it; it opens a registry that lives for a minute."""

CONFIG = """\
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/docker-registry}, delete: {enabled: true}}
http: {addr: ":5000", tls: {certificate: /etc/docker/registry/tls.pem, key: /etc/docker/registry/tls.key}}
auth: {htpasswd: {realm: lab, path: /etc/docker/registry/htpasswd}}
"""
CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=registry"
    " -addext subjectAltName=IP:{address}"
    " -keyout /etc/docker/registry/tls.key -out /etc/docker/registry/tls.pem"
    " && chown docker-registry /etc/docker/registry/tls.key"
)
TRUSTED = ("/etc/containers/certs.d", "/etc/docker/certs.d")


def auth(registry: str, password: str = PASSWORD) -> str:
    """Return what `podman login` writes."""
    return json.dumps({"auths": {registry: {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}}})


def put(host: LabHost, path: str, text: str) -> None:
    """Write a file of root's."""
    host.run(f"mkdir -p {Path(path).parent} && cat >{path}", input=text)


def pushed(fleet: Fleet, work: Path) -> str:
    """Add a host with a registry, push images to it as an operator does, and return where the registry is.

    The fleet's `images` become a folder of the list alone. `work` is an empty folder of this machine; hosts that are
    to pull have to `trust` the registry.
    """
    work.chmod(0o755)
    built = work / "built"
    shutil.copytree(lab_images(), built)
    store = fleet.lab.add_host("registry", image="containers", binds=[(work, str(work), False)])
    registry = _serve(store)
    trust(fleet, store, registry)
    fleet.options["registry_auth"] = "REGISTRY_AUTH"
    fleet.environment["REGISTRY_AUTH"] = auth(registry)
    _push(fleet, work, built, registry)
    fleet.options["images"] = str(work / "pulled")
    return registry


def trust(fleet: Fleet, host: LabHost, registry: str) -> None:
    """Put the registry's certificate where the engines of a host look for it."""
    certificate = fleet.lab.hosts["registry"].run("cat /etc/docker/registry/tls.pem").stdout
    for folder in TRUSTED:
        put(host, f"{folder}/{registry}/ca.crt", certificate)


def _serve(host: LabHost) -> str:
    host.run("mkdir -p /etc/docker/registry")
    host.run(CERTIFICATE.format(address=host.address))
    put(host, "/etc/docker/registry/config.yml", CONFIG)
    put(host, "/etc/docker/registry/htpasswd", f"{USER}:{HASHED}\n")
    host.run("systemctl restart docker-registry")
    return f"{host.address}:5000"


def _push(fleet: Fleet, work: Path, built: Path, registry: str) -> None:
    """Push, and leave only the list of images where the inventory looks."""
    put(fleet.lab.hosts["registry"], "/root/.config/containers/auth.json", auth(registry))
    put(fleet.lab.hosts["registry"], "/run/containers/0/auth.json", auth(registry))
    podman_on(fleet.lab.name, "registry", work / "bin")
    before = dict(os.environ)
    os.environ |= {"PATH": f"{work / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(work)}
    try:
        tempfile.tempdir = None  # it keeps the folder that it has found
        publish.publish([built], f"{registry}/lab", built, say=lambda _line: None, keep=True)
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = None
    (work / "pulled").mkdir()
    shutil.copy(built / manifest.NAME, work / "pulled" / manifest.NAME)
