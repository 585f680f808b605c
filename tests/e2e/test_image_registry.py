"""Hosts that pull their images from a real registry, which wants credentials and has a certificate of its own."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee_deploy.images import manifest, publish
from tests.container_images import lab_images, podman_on
from tests.e2e.fleets import Fleet
from tests.e2e.test_changes import changes
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

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
ENGINES = ("podman", "docker")


def auth(registry: str, password: str = PASSWORD) -> str:
    """Return what `podman login` writes."""
    import base64  # noqa: PLC0415 - here only

    return json.dumps({"auths": {registry: {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}}})


def put(host: LabHost, path: str, text: str) -> None:
    """Write a file of root's."""
    host.run(f"mkdir -p {Path(path).parent} && cat >{path}", input=text)


def serve(host: LabHost) -> str:
    """Start a registry on a host and return where it is."""
    host.run("mkdir -p /etc/docker/registry")
    host.run(CERTIFICATE.format(address=host.address))
    put(host, "/etc/docker/registry/config.yml", CONFIG)
    put(host, "/etc/docker/registry/htpasswd", f"{USER}:{HASHED}\n")
    host.run("systemctl restart docker-registry")
    return f"{host.address}:5000"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Give a registry with images that were pushed by the product, and a host of each engine that has none yet."""
    work = tmp_path_factory.mktemp("images")
    work.chmod(0o755)
    built = work / "built"
    shutil.copytree(lab_images(), built)
    with Lab.create("registry") as lab:
        store = lab.add_host("registry", image="containers", binds=[(work, str(work), False)])
        registry = serve(store)
        certificate = store.run("cat /etc/docker/registry/tls.pem").stdout
        made = Fleet(lab)
        made.options |= {"registry_auth": "REGISTRY_AUTH"}
        made.environment["REGISTRY_AUTH"] = auth(registry)
        for engine in ENGINES:
            machine = lab.add_host(engine, image="containers")
            made.declare(machine, mode="container", engine=engine, queen=engine == "podman")
            _trust(machine, registry, certificate)
        _trust(store, registry, certificate)
        _push(made, work, built, registry)
        made.options["images"] = str(work / "pulled")
        made.models["slow"] = {"name": "slow", "source": "fake:tokens=3", "replicas": "each_host"}
        try:
            yield made
        finally:
            made.close()


def _trust(host: LabHost, registry: str, certificate: str) -> None:
    for folder in TRUSTED:
        host.run(f"mkdir -p {folder}/{registry}")
        put(host, f"{folder}/{registry}/ca.crt", certificate)


def _push(fleet: Fleet, work: Path, built: Path, registry: str) -> None:
    """Push as an operator does, and leave only the list of images where the inventory looks."""
    put(fleet.lab.hosts["registry"], "/root/.config/containers/auth.json", auth(registry))
    put(fleet.lab.hosts["registry"], "/run/containers/0/auth.json", auth(registry))
    podman_on(fleet.lab.name, "registry", work / "bin")
    before = dict(os.environ)
    os.environ |= {"PATH": f"{work / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(work)}
    try:
        import tempfile  # noqa: PLC0415 - it keeps the folder that it has found

        tempfile.tempdir = None
        publish.publish([built], f"{registry}/lab", built, say=lambda _line: None, keep=True)
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = None
    (work / "pulled").mkdir()
    shutil.copy(built / manifest.NAME, work / "pulled" / manifest.NAME)


def listed(fleet: Fleet) -> manifest.Images:
    return manifest.read(Path(fleet.options["images"]))


def write(fleet: Fleet, name: str, **fields: str) -> None:
    """Give the fleet a list of images in which every entry has other fields."""
    import dataclasses  # noqa: PLC0415 - here only

    known = manifest.read(Path(fleet.options["images"]).parent / "pulled")
    folder = known.folder.parent / name
    folder.mkdir(exist_ok=True)
    (folder / manifest.NAME).write_text(
        manifest.text(dataclasses.replace(image, **fields) for image in known.images)  # type: ignore[arg-type]
    )
    fleet.options["images"] = str(folder)


FAILURES = {
    "wrong password": "wants other credentials: give it registry_auth=… in fleet()",
    "no such digest": "has no such image: push it there again",
    "a registry that is down": "does not answer: look at the network, or name a mirror",
}


@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_is_a_sentence_and_leaves_the_host(fleet: Fleet, what: str) -> None:
    """Every host says which registry, which image and what to do, and nothing of rbee runs on it."""
    bring_back(fleet)
    registry = listed(fleet).images[0].repository.partition("/")[0]
    good, images = fleet.environment["REGISTRY_AUTH"], fleet.options["images"]
    if what == "wrong password":
        fleet.environment["REGISTRY_AUTH"] = auth(registry, "another")
    elif what == "no such digest":
        write(fleet, "no-such", digest=f"sha256:{'0' * 64}")
    else:
        fleet.lab.hosts["registry"].run("systemctl stop docker-registry")
    try:
        done = fleet.deploy(check=False)
    finally:
        fleet.environment["REGISTRY_AUTH"], fleet.options["images"] = good, images
        fleet.lab.hosts["registry"].run("systemctl start docker-registry")
    assert done.code != 0
    assert FAILURES[what] in done.errors
    assert f"the registry of {registry}/lab/rbee-" in done.errors
    for engine in ENGINES:
        host = fleet.lab.hosts[engine]
        assert host.run("systemctl is-active rbee-hive", check=False).stdout.strip() == "inactive"
        assert host.run(f"{engine} ps --all --quiet").stdout == ""


def bring_back(fleet: Fleet) -> None:
    """Have no host anything of rbee: a purge leaves neither images nor what Podman was given of secrets."""
    for engine in ENGINES:
        host = fleet.lab.hosts[engine]
        if host.run("ls -d /opt/rbee", check=False).stdout:
            serves = host.run("systemctl is-active rbee-hive", check=False).stdout.strip() == "active"
            assert bool(secrets_at_podman(host)) is (serves and engine == "podman")
            assert fleet.rbee_deploy("purge", engine, "--yes").code == 0
        assert host.run(f"{engine} images --quiet").stdout == ""
        assert secrets_at_podman(host) == []


def secrets_at_podman(host: LabHost) -> list[str]:
    """Return the names of what Podman holds in secret, which only the containers of queen and hive get from it."""
    return host.run("podman secret ls --format '{{.Name}}'").stdout.split()


def test_hosts_pull_by_digest_and_serve(fleet: Fleet) -> None:
    """No image is uploaded, the credentials are nowhere afterwards, and a second run changes nothing."""
    bring_back(fleet)
    fleet.deploy()
    fleet.wait_ready("slow", 2)
    assert fleet.client().chat.completions.create(model="slow", messages=[{"role": "user", "content": "hi"}]).choices
    for engine in ENGINES:
        host = fleet.lab.hosts[engine]
        wanted = {image.id for image in listed(fleet).images if engine == "podman" or "queen" not in image.name}
        assert wanted <= set(host.run(f"{engine} images --quiet --no-trunc").stdout.split())
        names = host.run(f"{engine} images --format '{{{{.Repository}}}}:{{{{.Tag}}}}'").stdout.split()
        assert {image.tag for image in listed(fleet).images if image.id in wanted} <= set(names)
        assert host.run("ls /run/tmp.* /root/.docker /run/containers/0/auth.json", check=False).stdout == ""
    assert changes(fleet.deploy("--json")) == {}


def test_a_mirror_is_asked_first(fleet: Fleet) -> None:
    """With a mirror, images come although the registry that they were pushed to does not answer."""
    registry = listed(fleet).images[0].repository.partition("/")[0]
    bring_back(fleet)
    before = dict(fleet.options)
    known = listed(fleet).images
    folder = Path(fleet.options["images"]).parent / "away"
    folder.mkdir()
    away = [
        manifest.Image(**{**image.__dict__, "repository": f"192.0.2.9:5000/lab/rbee-{image.name}"}) for image in known
    ]
    (folder / manifest.NAME).write_text(manifest.text(away))
    fleet.options |= {"images": str(folder), "image_mirrors": [registry]}
    fleet.deploy()
    fleet.wait_ready("slow", 2)
    fleet.options = before
