"""Where models come from, as inventories say it: sources, stores, made-up devices, credentials; and what is refused."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.errors import InventoryError
from rbee_deploy.inventory import host, model, recorded, secret_env, simulated, store
from rbee_runtime.config import StoreSettings
from tests.unit.deploy.sites import site_of, write_model

HEX = "ab" * 32
REMOTE = [
    "hf:acme/bee",
    "hf:acme/bee@v1:*Q4_K_M.gguf",
    f"https://models.example/bee.gguf#sha256={HEX}",
    "http://mirror.lan/bee.gguf",
    "s3://bucket/llm/bee.gguf",
    "gs://bucket/llm/",
    "az://container/bee.gguf",
    "oci://registry.example/acme/bee:q4",
]


def a_queen(**fields: Any) -> Any:
    return host("q", **{"address": "192.0.2.1", "queen": True, **fields})


@pytest.mark.parametrize("source", REMOTE)
def test_every_remote_source_is_for_a_real_engine(source: str) -> None:
    """A source that hosts fetch from is accepted, is served by llama-cpp, and is not copied by the deployer."""
    declared = model("m", source=source)
    assert (declared.engine_name, declared.copied, declared.fetched) == ("llama-cpp", False, True)


def test_only_files_of_this_machine_are_copied(tmp_path: Path) -> None:
    """A file is copied unless it lies on the hosts; the built-in engine has nothing to copy or fetch."""
    source = write_model(tmp_path)
    kinds = [model("m", source=source), model("m", source=source, preseed=False), model("m", source="fake:tokens=1")]
    assert [(item.copied, item.fetched) for item in kinds] == [(True, False), (False, False), (False, False)]


@pytest.mark.parametrize(
    ("given", "size"),
    [(7, 7), ("7 B", 7), ("7B", 7), ("2 kB", 2000), ("2 GB", 2 * 10**9), ("1.5 TiB", 3 << 39), ("500 GiB", 500 << 30)],
)
def test_sizes_come_as_people_write_them(given: object, size: int) -> None:
    """Bytes as a number, or as text with a decimal or binary unit."""
    assert store(quota=given).quota == size


def test_the_hive_is_told_only_what_differs() -> None:
    """A store as the hive has it by itself says nothing, and every other field says itself in the hive's words."""
    assert store().settings() == store(spare="5 GiB", offline=False, quota=None).settings() == {}
    given = {
        "quota": 10,
        "spare": 0,
        "offline": True,
        "hf_endpoint": "https://hub.example",
        "plain_http_hosts": ("mirror.lan:8080", "[fd00::1]"),
        "hf_caches": ("/srv/hf",),
        "allow_pickle": True,
    }
    assert store(**given).settings() == given
    assert set(StoreSettings.model_validate(given).model_fields_set) == set(StoreSettings.model_fields)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a store without field names": (
        lambda _: store("500 GiB"),
        "store: fields are given by name, such as store(quota=…)",
    ),
    "an unknown field of a store": (lambda _: store(qouta=1), "store: unknown field 'qouta'; did you mean 'quota'"),
    "a size of no unit": (
        lambda _: store(quota="500 gigs"),
        "store: quota is '500 gigs': it must be bytes, or a size such as '500 GiB', of at least 1",
    ),
    "a quota of nothing": (lambda _: store(quota=0), "store: quota is 0: it must be bytes, or a size"),
    "a negative spare": (lambda _: store(spare=-1), "store: spare is -1: it must be bytes, or a size"),
    "True as a size": (lambda _: store(quota=True), "store: quota is True: it must be bytes"),
    "a hub that is no address": (
        lambda _: store(hf_endpoint="hub.example"),
        "store: hf_endpoint is 'hub.example': it must be the address of a hub, such as 'https://hub.example'",
    ),
    "a hub without TLS": (
        lambda _: store(hf_endpoint="http://10.0.0.1:80", plain_http_hosts=["10.0.0.2"]),
        "store: hf_endpoint is 'http://10.0.0.1:80', which is not asked without TLS: write https://…, or name its host",
    ),
    "a password of a hub": (
        lambda _: store(hf_endpoint="https://me:hunter2@hub.example"),
        "store: hf_endpoint has a user in it: leave it out, and give a token as hf_token",
    ),
    "a hub at no port": (
        lambda _: store(hf_endpoint="http://hub:99999", plain_http_hosts=["hub"]),
        "store: hf_endpoint is 'http://hub:99999': Port out of range",
    ),
    "a source at no port": (
        lambda _: model("m", source="http://mirror.lan:65536/bee.gguf"),
        "model 'm': source is 'http://mirror.lan:65536/bee.gguf': model source",
    ),
    "an address for a host": (
        lambda _: store(plain_http_hosts=["http://mirror.lan/"]),
        "'http://mirror.lan/' must be a host or host:port, without http:// and path",
    ),
    "a cache of here": (lambda _: store(hf_caches=["~/.cache"]), "hf_caches is ['~/.cache']: it must be an absolute"),
    "one cache without a list": (lambda _: store(hf_caches="/srv/hf"), "it must be a list of absolute paths"),
    "a cache that services cannot see": (
        lambda _: store(hf_caches=["/tmp/hf"]),
        "services see a /tmp and /var/tmp of their own; move /tmp/hf elsewhere",
    ),
    "a store as a dict": (
        lambda _: host("g", store={"quota": 1}),
        "host 'g': store is {'quota': 1}: it must be store(",
    ),
    "devices as words": (
        lambda _: host("g", devices=["gpu0"]),
        "host 'g': devices is ['gpu0']: it must be a list of simulated(…), or recorded(…)",
    ),
    "one device twice": (
        lambda _: host("g", devices=[simulated("gpu0"), simulated("gpu0")]),
        "host 'g': devices has the device 'gpu0' twice; give each its own name",
    ),
    "a device that is more than full": (
        lambda _: simulated("gpu0", memory="1 GiB", used="2 GiB"),
        "simulated 'gpu0': used is 2147483648, more than its memory 1073741824",
    ),
    "a recording of nothing": (
        lambda folder: recorded(folder / "no.json"),
        "no.json': there is no such file on this machine",
    ),
    "a file that is no recording": (
        lambda folder: recorded(write_model(folder).removeprefix("file:")),
        "is not a recording of devices; make one with `python -m rbee_runtime.devices record`",
    ),
    "a token in the open": (
        lambda _: host("g", hf_token="hf_hunter2"),
        "host 'g': hf_token is given as plain text: use secret_env, secret_file or secret_command",
    ),
    "keys in the open": (
        lambda _: site_of(a_queen(), object_store="AWS_SECRET_ACCESS_KEY=hunter2"),
        "fleet 'test': object_store is given as plain text",
    ),
    "files of what has none": (
        lambda _: model("m", source="fake:tokens=3", preseed=True),
        "model 'm': 'fake:tokens=3' has no files; drop preseed=True",
    ),
    "a folder to copy": (
        lambda folder: model("m", source=f"file:{folder}"),
        "is a folder, and only single files are copied; put it on the hosts under the same path and write preseed=Fa",
    ),
    "an engine without files": (
        lambda _: model("m", source="hf:acme/bee", engine="fake"),
        "model 'm': engine is 'fake', which cannot serve 'hf:acme/bee'; drop the field or write engine='llama-cpp'",
    ),
    "an address without TLS": (
        lambda _: site_of(a_queen(), models=(model("m", source="http://mirror.lan:81/bee.gguf"),)),
        "model 'm': 'http://mirror.lan:81/bee.gguf' has no TLS; use https, or give host 'q' store=store(plain_http_ho",
    ),
    "a password in a source": (
        lambda _: model("m", source="https://me:hunter2@models.example/bee.gguf"),
        "model 'm': source is 'https://***@models.example/bee.gguf': model source",
    ),
    "a signature in a source": (
        lambda _: model("m", source="https://models.example/a b?sig=hunter2"),
        "model 'm': source is 'https://models.example/a b?***': model source",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_gets_one_sentence(case: str, tmp_path: Path) -> None:
    """Whatever is wrong with models, stores, devices or credentials is one line, which repeats no secret."""
    build, sentence = BAD[case]
    with pytest.raises(InventoryError) as caught:
        build(tmp_path)
    said = str(caught.value.code)
    assert sentence in said
    assert "\n" not in said
    assert not said.endswith(".")
    assert "hunter2" not in said


def test_a_named_host_may_go_without_tls() -> None:
    """Hosts that may serve the model have its address named; others need not."""
    wanted = model("m", source="http://mirror.lan:81/bee.gguf", hosts=["q"])
    site = site_of(a_queen(store=store(plain_http_hosts=["mirror.lan"])), host("g"), models=(wanted,))
    assert site.models == (wanted,)


def test_a_host_has_its_own_credentials_or_the_fleets() -> None:
    """A host's own secret replaces the fleet's of the same kind, and a host without a hive gets none."""
    fleets, own, keys = secret_env("FLEET"), secret_env("OWN"), secret_env("KEYS")
    queen, first, second = a_queen(hive=False), host("a"), host("b", hf_token=own)
    site = site_of(queen, first, second, hf_token=fleets, object_store=keys)
    assert site.model_credentials(queen) == {}
    assert site.model_credentials(first) == {"hf-token": fleets, "object-store.env": keys}
    assert site.model_credentials(second) == {"hf-token": own, "object-store.env": keys}


def test_a_wrong_store_is_found_by_its_line(tmp_path: Path) -> None:
    """A store is made before its host is known, so the sentence says where in the inventory it stands."""
    inventory = tmp_path / "inventory.py"
    inventory.write_text("from rbee_deploy.inventory import host, store\nhost('g', store=store(\n  quotta=1))\n")
    with pytest.raises(InventoryError) as caught:
        runpy.run_path(str(inventory))
    assert caught.value.code == f"{inventory}, line 2: store: unknown field 'quotta'; did you mean 'quota'"
