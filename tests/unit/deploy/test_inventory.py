"""The inventory's constructors: what they take, and the one sentence for what they do not take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paramiko import ECDSAKey

from rbee_deploy import _fields, sources
from rbee_deploy.errors import InventoryError
from rbee_deploy.inventory import TlsPaths, command_engine, each_host, fleet, host, model, secret_env
from tests.unit.deploy.sites import site_of, write_model


def a_queen(**fields: Any) -> Any:
    return host("q", **{"address": "192.0.2.1", "queen": True, **fields})


def echo(name: str = "echo", **fields: Any) -> Any:
    return model(name, **{"source": "fake:tokens=1", **fields})


def llama(**fields: Any) -> Any:
    return model("m", source="file:/x", preseed=False, **fields)


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "unknown field of a host": (
        lambda: host("g", lables={}),
        "host 'g': unknown field 'lables'; did you mean 'labels'",
    ),
    "unknown field of a model": (
        lambda: model("m", sorce="fake:x"),
        "model 'm': unknown field 'sorce'; did you mean 'source'",
    ),
    "unknown field of a fleet": (
        lambda: fleet("f", host=[]),
        "fleet 'f': unknown field 'host'; did you mean 'hosts'",
    ),
    "a field that is like no other": (lambda: host("g", zzz=1), "host 'g': unknown field 'zzz'"),
    "fields without names": (
        lambda: host("g", "192.0.2.1"),
        "host 'g': fields are given by name, such as host('g', address=…)",
    ),
    "no source": (lambda: model("m"), "model 'm': field 'source' is missing"),
    "a name that breaks certificates": (
        lambda: host("a/b"),
        "host 'a/b': name is 'a/b': use 1-63 letters, digits, '-' and '.', with a letter or digit at both ends",
    ),
    "no name": (host, "host '': name is '': use 1-63 letters, digits"),
    "address with a port": (
        lambda: host("g", address="10.0.0.1/24"),
        "host 'g': address is '10.0.0.1/24': it must be an IP address or a DNS name, without a port or scheme",
    ),
    "a port in words": (
        lambda: host("g", hive_port="8600"),
        "host 'g': hive_port is '8600': it must be a whole number in 1024-65535",
    ),
    "a privileged port": (lambda: host("g", queen_port=80), "host 'g': queen_port is 80: it must be a whole number in"),
    "True as a port": (lambda: host("g", ssh_port=True), "host 'g': ssh_port is True: it must be a whole number"),
    "a range upside down": (
        lambda: host("g", worker_ports=(9001, 9000)),
        "host 'g': worker_ports is (9001, 9000): the first port must not be above the last",
    ),
    "no worker's memory": (
        lambda: host("g", worker_memory="1 MiB"),
        "host 'g': worker_memory is '1 MiB': it must be bytes, or a size such as '500 GiB', of at least 256 MiB",
    ),
    "half a range": (lambda: host("g", worker_ports=9000), "host 'g': worker_ports is 9000: it must be (first port,"),
    "one port twice": (
        lambda: a_queen(queen_port=8600),
        "host 'q': hive_port and queen_port are both 8600; give one another port",
    ),
    "a port among the workers'": (
        lambda: host("g", hive_port=9005),
        "host 'g': hive_port 9005 lies within worker_ports (9000, 9099)",
    ),
    "labels as a list": (lambda: host("g", labels=["a"]), "host 'g': labels is ['a']: labels are a dict of strings"),
    "a label that is no text": (
        lambda: host("g", labels={"gpu": 1}),
        "host 'g': labels is {'gpu': 1}: label text 1 must be a string of 1-63",
    ),
    "a flag in words": (lambda: host("g", queen="yes"), "host 'g': queen is 'yes': it must be True or False"),
    "an alias of nothing": (
        lambda: fleet(hosts=[a_queen()], models=[model("m", source="fake:")], aliases={"gpt": "n"}),
        "fleet 'rbee': aliases has 'gpt' for 'n', which is not a model of this fleet",
    ),
    "an alias that is a model": (
        lambda: fleet(hosts=[a_queen()], models=[model("m", source="fake:")], aliases={"m": "m"}),
        "fleet 'rbee': aliases has 'm', which is a model's own name; drop it",
    ),
    "aliases as a list": (
        lambda: fleet(hosts=[a_queen()], aliases=["m"]),
        "aliases is ['m']: it must be a dict of names that clients may use and models that answer",
    ),
    "every page": (
        lambda: fleet(hosts=[a_queen()], web_pages=["*"]),
        "fleet 'rbee': web_pages is ['*']: '*' is no origin of web pages, such as https://chat.example.org: no",
    ),
    "a page with a path": (
        lambda: fleet(hosts=[a_queen()], web_pages=["https://a.example/chat"]),
        "'https://a.example/chat' is no origin of web pages",
    ),
    "one page": (
        lambda: fleet(hosts=[a_queen()], web_pages="https://a.example"),
        "web_pages is 'https://a.example': it must be a list of strings",
    ),
    "a mode of nowhere": (
        lambda: host("g", mode="vm"),
        "host 'g': mode is 'vm': it must be 'bare' or 'container'",
    ),
    "a runtime of nowhere": (
        lambda: host("g", worker_runtime="vm"),
        "host 'g': worker_runtime is 'vm': it must be 'process' or 'container'",
    ),
    "an engine of containers of nowhere": (
        lambda: host("g", engine="lxc"),
        "host 'g': engine is 'lxc': it must be 'podman' or 'docker'",
    ),
    "containers that a firewall does not see": (
        lambda: host("g", worker_runtime="container", firewall="firewalld", engine="docker"),
        "firewall is 'firewalld', past which docker publishes the ports of workers; write firewall='nftables' if",
    ),
    "containers without images": (
        lambda: fleet(hosts=[a_queen(worker_runtime="container")]),
        "worker_runtime is 'container', and fleet 'rbee' has no images: write images='…' in fleet() with a folder that",
    ),
    "a queen in a container without images": (
        lambda: fleet(hosts=[a_queen(mode="container")]),
        "mode is 'container', and fleet 'rbee' has no images: write images='…' in fleet() with a folder that",
    ),
    "a folder of images that is not there": (
        lambda: fleet(hosts=[a_queen(mode="container")], images="/nowhere/images"),
        "images: /nowhere/images is no folder of images: cannot read /nowhere/images/images.json (No such file or",
    ),
    "a fallback that is no other way": (
        lambda: host("g", worker_runtime="container", fallback="bare"),
        "host 'g': fallback is 'bare', which is for hosts with mode='container': write that, or drop fallback",
    ),
    "a fallback that nobody knows": (lambda: host("g", fallback="docker"), "fallback is 'docker': it must be 'bare'"),
    "a host of containers that a firewall does not see": (
        lambda: host("g", mode="container", firewall="ufw"),
        "podman publishes the ports of workers; write firewall='nftables' if ufw is off there, rootless=True, or mode",
    ),
    "no part to play": (
        lambda: host("g", hive=False),
        "host 'g': it is neither queen nor hive; drop hive=False or the whole line",
    ),
    "an engine of nowhere": (
        lambda: site_of(a_queen(engines=["lama-cpp"])),
        "engines: 'lama-cpp' is not an engine of this version; did you mean 'llama-cpp'",
    ),
    "an engine that no image has": (
        lambda: site_of(a_queen(engines=["llama-server"], worker_runtime="container")),
        "there is no image with 'llama-server', and its workers are containers; use a bare host, or llama-cpp or vllm",
    ),
    "a server under a name of ours": (
        lambda: command_engine("vllm", command=["x", "{port}"]),
        "command_engine 'vllm': name is 'vllm': 'vllm' is an engine of rbee; choose another name",
    ),
    "a server that listens nowhere": (
        lambda: command_engine("sglang", command=["sglang", "{model}"]),
        "it must say where the server listens: {socket}, or {port} on 127.0.0.1",
    ),
    "a server with an unknown word": (
        lambda: command_engine("sglang", command=["sglang", "{gpu}", "{port}"]),
        "{gpu} is none of {model}, {folder}, {name}",
    ),
    "a server without a program": (
        lambda: command_engine("sglang", command=[]),
        "it must be a list of words, the program first",
    ),
    "a server that is ready nowhere": (
        lambda: command_engine("sglang", command=["x", "{port}"], ready="health"),
        "ready is 'health': it must be a path such as '/health'",
    ),
    "a server with numbers for variables": (
        lambda: command_engine("sglang", command=["x", "{port}"], environment={"N": 1}),
        "it must be a dict of texts by names of variables",
    ),
    "two servers of one name": (
        lambda: site_of(
            a_queen(), command_engines=[command_engine("sglang", command=["x", "{port}"]) for _ in range(2)]
        ),
        "command_engine 'sglang': declared twice; rename one or delete it",
    ),
    "one word for a list": (
        lambda: host("g", engines="llama-cpp"),
        "host 'g': engines is 'llama-cpp': it must be a list of strings",
    ),
    "a models folder that breaks units": (
        lambda: host("g", models_dir="/srv/my models"),
        "host 'g': models_dir is '/srv/my models': it must be an absolute path of letters",
    ),
    "a models folder that climbs": (lambda: host("g", models_dir="/srv/../etc"), "must not contain '..'"),
    "a key that is not there": (
        lambda: host("g", ssh_key="/nowhere/key"),
        "host 'g': ssh_key is '/nowhere/key': there is no such file on this machine",
    ),
    "a key as a path that is not there": (
        lambda: host("g", ssh_key=Path("/nowhere/key")),
        "host 'g': ssh_key is '/nowhere/key': there is no such file on this machine",
    ),
    "no host key check": (
        lambda: host("g", ssh_host_keys="no"),
        "host 'g': ssh_host_keys is 'no': it must be 'strict' or 'accept-new'",
    ),
    "a password in the open": (
        lambda: host("g", sudo_password="hunter2"),
        "host 'g': sudo_password is given as plain text: use secret_env, secret_file or secret_command",
    ),
    "a model name that climbs": (
        lambda: echo("../x"),
        "model '../x': name is '../x': model name '../x' is not allowed",
    ),
    "a source of no known form": (
        lambda: model("m", source="ftp://x"),
        "model 'm': source is 'ftp://x': model source 'ftp://x' is not of a known form",
    ),
    "a relative file": (
        lambda: model("m", source="file:x.gguf"),
        "model 'm': source is 'file:x.gguf': model source 'file:x.gguf' needs an absolute path",
    ),
    "a file that is not here": (
        lambda: model("m", source="file:/nowhere/x.gguf"),
        "model 'm': source 'file:/nowhere/x.gguf' does not exist on this machine; correct the path, or write preseed=",
    ),
    "an engine that cannot": (
        lambda: echo(engine="llama-cpp"),
        "model 'echo': engine is 'llama-cpp', which cannot serve 'fake:tokens=1'; drop the field or write engine='fak",
    ),
    "replicas below one": (lambda: echo(replicas=0), "model 'echo': replicas is 0: it must be a whole number from 1,"),
    "replicas upside down": (lambda: echo(replicas=(2, 1)), "model 'echo': replicas is (2, 1): it must be"),
    "a wait for ever": (lambda: echo(load_wait=9e9), "model 'echo': load_wait is 9000000000.0: it must be seconds in"),
    "seconds for what stays": (
        lambda: echo(idle_ttl=5, keep_loaded=True),
        "model 'echo': idle_ttl is 5, and with keep_loaded=True its workers stay; drop one of the two",
    ),
    "seconds for one on each host": (
        lambda: echo(idle_ttl=5, replicas=each_host),
        "model 'echo': idle_ttl is 5, and with replicas=each_host its workers stay; drop one of the two",
    ),
    "streams that nobody can go on with": (
        lambda: echo(continues=True, replicas=(0, 1)),
        "model 'echo': continues is True, and with replicas at most 1 there is no other worker to go on; raise",
    ),
    "continues in words": (lambda: echo(continues="yes"), "model 'echo': continues is 'yes': it must be True or False"),
    "cards for an engine that takes one": (
        lambda: model("m", source="hf:org/m", engine="sglang", gpus=2),
        "model 'm': gpus is 2, and engine 'sglang' takes one card; those that share cards are fake, llama-cpp, llama-",
    ),
    "another placement": (
        lambda: echo(placement="spred"),
        "model 'echo': placement is 'spred': it must be 'spread' or 'pack'",
    ),
    "apart from nobody": (
        lambda: fleet(hosts=[a_queen()], models=[echo(apart_from=["eco"])]),
        "model 'echo': apart_from names 'eco', which is not a model of this fleet; did you mean 'echo'",
    ),
    "options as a list": (lambda: echo(options=[1]), "model 'echo': options is [1]: options are a dict"),
    "an option with parts": (lambda: echo(options={"a": {}}), "option 'a' must be a string, a number or True/False"),
    "an option that llama.cpp has not": (
        lambda: llama(options={"threds": 2}),
        "model 'm': an option of engine llama-cpp is wrong: there is no 'threds'; did you mean 'threads'; known: gpu_",
    ),
    "an option of another type": (
        lambda: llama(options={"gpu_layers": 0, "threads": "many"}),
        "model 'm': an option of engine llama-cpp is wrong: threads is 'many': expected `int`, got `str`; known: gpu_",
    ),
    "a fake source that is no script": (
        lambda: echo(source="fake:tokns=2"),
        "model 'echo': unknown option 'tokns' of a fake engine; did you mean 'tokens'",
    ),
    "an option that fake has not": (
        lambda: echo(options={"threads": 2}),
        "model 'echo': unknown option 'threads' of a fake engine; known: slots, tokens_per_s",
    ),
    "a fake option out of bounds": (
        lambda: echo(options={"load_s": -1}),
        "model 'echo': a fake engine's option is wrong: load_s is -1: expected `float` >= 0.0",
    ),
    "hosts that are not hosts": (
        lambda: fleet(hosts=["q"]),
        "fleet 'rbee': hosts must be a list of host(…), and item 1 is of type str",
    ),
    "a host's name among hosts": (
        lambda: fleet(hosts=[a_queen(), "gpu1"]),
        "fleet 'rbee': hosts must be a list of host(…), and item 2 is of type str",
    ),
    "one model without a list": (
        lambda: fleet(hosts=[a_queen()], models=echo()),
        "fleet 'rbee': models must be a list of model(…), and is of type Model",
    ),
    "no hosts": (lambda: fleet(hosts=[]), "fleet 'rbee': no host is the queen; add queen=True to one host"),
    "no queen": (lambda: site_of(host("g")), "fleet 'test': no host is the queen; add queen=True to one host"),
    "two queens": (
        lambda: site_of(a_queen(), host("r", queen=True)),
        "fleet 'test': hosts 'q' and 'r' both have queen=True; a fleet has one queen",
    ),
    "one host twice": (
        lambda: site_of(a_queen(), host("Q", address="192.0.2.9")),
        "host 'Q': declared twice; rename one or delete it",
    ),
    "one address twice": (
        lambda: site_of(a_queen(), host("g", address="192.0.2.1")),
        "host 'g': address 192.0.2.1 port 22 is also that of host 'q'; give each its own",
    ),
    "one advertised address twice": (
        lambda: site_of(a_queen(), host("g", address="192.0.2.2", advertise="192.0.2.1")),
        "host 'g': advertise 192.0.2.1 is also that of host 'q'; give each its own",
    ),
    "one model twice": (
        lambda: site_of(a_queen(), models=(echo(), echo())),
        "model 'echo': declared twice; rename one or delete it",
    ),
    "two models of one file name": (
        lambda: site_of(a_queen(), models=(echo("a/b"), echo("a:b"))),
        "model 'a:b': its name and 'a/b' both become 'a-b' in file names; rename one",
    ),
    "a model for a host that is not": (
        lambda: site_of(a_queen(), host("gpu1"), models=(echo(hosts=["gpu"]),)),
        "model 'echo': hosts names 'gpu', which is not a hive of this fleet; did you mean 'gpu1'",
    ),
    "labels that no host has": (
        lambda: site_of(a_queen(), models=(echo(labels={"gpu": "a"}),)),
        "model 'echo': no hive in this fleet has engine fake and label gpu=a; change the host's labels or engines",
    ),
    "an engine that no host has": (
        lambda: site_of(a_queen(engines=[]), models=(model("m", source="file:/x", preseed=False, hosts=["q"]),)),
        "model 'm': no hive among q has engine llama-cpp; change the host's labels or engines, or the model's",
    ),
    "a client endpoint in half": (
        lambda: site_of(a_queen(), client_endpoint="http"),
        "fleet 'test': client_endpoint is 'http': it must be 'fleet-tls' or 'plain-http'",
    ),
    "a form that logs do not have": (
        lambda: site_of(a_queen(), log_format="xml"),
        "fleet 'test': log_format is 'xml': it must be 'lines' or 'json'",
    ),
    "no time for a first byte": (
        lambda: site_of(a_queen(), first_byte_seconds=0),
        "fleet 'test': first_byte_seconds is 0: it must be seconds in 1-86400",
    ),
    "a certificate that is not there": (
        lambda: site_of(a_queen(), client_endpoint=TlsPaths(certificate="/nowhere.pem", key="/nowhere.key")),
        "there is no such file on this machine",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_inventory_gets_one_sentence(case: str) -> None:
    """Whatever is wrong is one line that names host or model and field, and the exit status is 1."""
    build, sentence = BAD[case]
    with pytest.raises(InventoryError) as caught:
        build()
    said = str(caught.value.code)
    assert sentence in said
    assert "\n" not in said
    assert not said.endswith(".")


def test_a_password_in_the_open_is_not_repeated() -> None:
    """The sentence about a plain password does not show it."""
    with pytest.raises(InventoryError) as caught:
        host("g", sudo_password="hunter2")
    assert "hunter2" not in str(caught.value.code)


def test_a_wrong_list_of_hosts_is_not_dumped() -> None:
    """However many hosts a list holds, the sentence about the one that is none stays short."""
    with pytest.raises(InventoryError) as caught:
        fleet(hosts=[*(host(f"g{number}") for number in range(50)), "gpu1"])
    assert str(caught.value.code) == "fleet 'rbee': hosts must be a list of host(…), and item 51 is of type str"


@pytest.mark.parametrize("options", [{}, {"threads": 8}, {"threads": "8", "gpu_layers": 0}])
def test_options_that_the_worker_takes_are_taken(options: dict[str, object]) -> None:
    """What llama-cpp knows passes as it was written, numbers as texts too."""
    assert llama(options=options).options == options


@pytest.mark.parametrize("content", [None, "{", '{"images": [{"name": "queen"}]}', "[]"])
def test_images_have_to_be_readable(tmp_path: Path, content: str | None) -> None:
    """A folder without images.json, or one of which it says nothing, is refused before any host is reached."""
    if content is not None:
        (tmp_path / "images.json").write_text(content)
    with pytest.raises(InventoryError, match=f"images: {tmp_path}.*`rbee-deploy images --out|damaged .* build"):
        fleet(hosts=[a_queen(worker_runtime="container")], images=str(tmp_path))
    assert fleet(hosts=[a_queen()], images=str(tmp_path))


def test_images_out_of_a_bundle_need_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from elsewhere need not lie on this machine."""
    monkeypatch.setattr(sources, "chosen", lambda: sources.Built(reads_files=False))
    assert fleet(hosts=[a_queen(mode="container")], images="/nowhere/images")


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *((kind, {"rootless": True}) for kind in ("nftables", "ufw", "firewalld")),
        ("nftables", {}),
        ("nftables", {"engine": "docker"}),
    ],
)
@pytest.mark.parametrize("word", ["mode", "worker_runtime"])
def test_a_firewall_that_sees_what_is_published_holds_beside_containers(
    kind: str, way: dict[str, Any], word: str
) -> None:
    """Without root an ordinary process of the host listens, so every kind does; a table of our own sees any engine."""
    assert host("g", **{word: "container"}, firewall=kind, **way).firewall == kind


def test_a_host_that_is_both_is_in_both_groups() -> None:
    """Queen and hives are legal pyinfra groups, and a host that is both has one and the same data."""
    queen, hives = fleet(hosts=[a_queen(), host("g", address="192.0.2.2")])
    assert [name for name, _ in queen] == ["q"]
    assert [name for name, _ in hives] == ["q", "g"]
    assert queen[0] == hives[0]


def test_ssh_data_is_what_pyinfra_knows(tmp_path: Path) -> None:
    """Given SSH fields become pyinfra's keys; those not given leave pyinfra's defaults alone."""
    key = tmp_path / "key"
    ECDSAKey.generate().write_private_key_file(str(key))
    queen, _ = fleet(hosts=[a_queen(ssh_user="ops", ssh_key=key, ssh_port=2222, ssh_host_keys="strict")])
    data = {name: value for name, value in queen[0][1].items() if name != "rbee"}
    assert data == {
        "ssh_hostname": "192.0.2.1",
        "ssh_port": 2222,
        "ssh_user": "ops",
        "ssh_key": str(key),
        "ssh_strict_host_key_checking": "yes",
    }


def test_a_model_finds_its_hosts() -> None:
    """Names, labels and engines together say where a model may run; the fake engine is everywhere."""
    plain = host("plain", engines=[])
    gpu = host("gpu", labels={"gpu": "a"})
    wanted = {"label": echo("l", labels={"gpu": "a"}), "name": echo("n", hosts=["plain"]), "fake": echo("f")}
    site = site_of(a_queen(hive=False), plain, gpu, models=tuple(wanted.values()))
    found = {case: [item.name for item in site.hives_for(wanted[case])] for case in wanted}
    assert found == {"label": ["gpu"], "name": ["plain"], "fake": ["plain", "gpu"]}


def test_what_is_left_out_follows_from_the_rest(tmp_path: Path) -> None:
    """The engine follows from the source, addresses from the name, secrets from the fleet's name."""
    file = model("m", source=write_model(tmp_path))
    site = site_of(host("box", queen=True, sudo_password=secret_env("X")), models=(file, echo()), name="home")
    assert [item.engine_name for item in site.models] == ["llama-cpp", "fake"]
    assert (site.queen.ssh_address, site.queen.reach) == ("box", "box")
    assert site.secrets.parts[-2:] == ("rbee", "home")


@pytest.mark.parametrize(("given", "kept"), [(2, (2, 2, False)), ((0, 3), (0, 3, False)), (each_host, (1, 1, True))])
def test_replicas_come_in_three_forms(given: object, kept: tuple[int, int, bool]) -> None:
    """A number, a pair or each_host."""
    replicas = echo(replicas=given).replicas
    assert (replicas.minimum, replicas.maximum, replicas.each_host) == kept


def test_pages_are_written_as_browsers_do() -> None:
    """Small letters, and no port that goes without saying: a browser's origin has to be the same text."""
    given = ["HTTPS://Chat.Example:443", "http://box:3000", "http://[fd00::1]:80", "http://box:443"]
    assert _fields.origins(given) == ("https://chat.example", "http://box:3000", "http://[fd00::1]", "http://box:443")
