"""What is found on a host, and the lines that come of it."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.adoption import found, search
from rbee_deploy.adoption.found import Server
from rbee_deploy.inventory import external, host
from rbee_deploy.site import Host, Site
from rbee_runtime.models.references import check_name
from tests.ports import free_port
from tests.unit.deploy.sites import site_of
from tests.unit.queen.units import wait_until

PROGRAM = Path(__file__).resolve().parents[2] / "openai_server.py"
EVERYWHERE, LOOPBACK = ("0.0.0.0", "::"), ("127.0.0.1",)


def fleet(**fields: Any) -> tuple[Site, Host, Host]:
    queen = host("queen", address="192.0.2.1", queen=True, hive=False)
    gpu = host("gpu1", address="192.0.2.2")
    return site_of(queen, gpu, **fields), queen, gpu


@pytest.mark.parametrize(
    ("words", "comm", "kind"),
    [
        (["/usr/local/bin/ollama", "serve"], "ollama", "ollama"),
        (["./llama-server", "-m", "x.gguf"], "llama-server", "llama-server"),
        (["llama-server", "x.py"], "python3", "llama-server"),
        (["/venv/bin/python", "/venv/bin/vllm", "serve", "org/x"], "vllm", "vllm"),
        (["python3", "-m", "vllm.entrypoints.openai.api_server"], "python3", "vllm"),
        (["python3", "train.py", "--out", "vllm"], "python3", ""),
        (["/usr/bin/docker-proxy", "-proto", "tcp"], "docker-proxy", ""),
        ([""], "kthreadd", ""),
    ],
)
def test_a_server_is_known_by_its_command(words: list[str], comm: str, kind: str) -> None:
    """The three servers are recognised however they were started, and nothing that only mentions one."""
    assert search.kind(words, comm) == kind


def test_the_kernels_table_is_read() -> None:
    """Only listening sockets count, with addresses of both families as people write them."""
    head = "  sl  local_address rem_address st tx rx tr tm retr uid timeout inode\n"
    rows = (
        "0: 0100007F:2CAA 00000000:0000 0A 0:0 0:0 0 0 0 41",
        "1: 0100007F:2CAA 0100007F:9999 01 0:0 0:0 0 0 0 42",
        "2: 00000000000000000000000001000000:1F90 0:0 0A 0:0 0:0 0 0 0 43",
    )
    found_rows = search.listeners(head + "\n".join(rows))
    assert found_rows == [("127.0.0.1", 11434, "41"), ("::1", 8080, "43")]


@pytest.mark.parametrize(
    ("body", "models"),
    [
        (b'{"data":[{"id":"a","owned_by":"vllm"}]}', [("a", "vllm")]),
        (b'{"data":null}', []),
        (b'{"data":[{"id":7}]}', None),
        (b'{"models":[]}', None),
        (b"[]", None),
        (b"<html>", None),
        (b"\xff", None),
    ],
)
def test_only_a_list_of_models_makes_a_server(body: bytes, models: object) -> None:
    """Whatever else answers on a common port is left out."""
    assert search.models(body) == models


def test_it_finds_a_server_that_runs(tmp_path: Path) -> None:
    """The program, as hosts get it, finds a process called llama-server at a port of its own, and says what it has."""
    port = free_port()
    command = [sys.executable, str(PROGRAM), "--port", str(port)]
    with subprocess.Popen(["bash", "-c", 'exec -a llama-server "$@"', "bash", *command]) as server:
        try:
            wait_until(lambda: search.ask("127.0.0.1", port))
            text = "\n".join(found.program())
            done = subprocess.run([sys.executable, "-I", "-"], input=text, capture_output=True, text=True, check=True)
        finally:
            server.kill()
    (row,) = [row for row in json.loads(done.stdout) if row["port"] == port]
    assert found.parse([row]) == [Server("llama-server", port, ("127.0.0.1",), ("/srv/models/tiny.gguf",))]


@pytest.mark.parametrize(
    ("server", "line"),
    [
        (
            Server("ollama", 11434, EVERYWHERE, ("llama3:latest",)),
            'external("gpu1-ollama", url="http://192.0.2.2:11434", models=["llama3:latest"]),',
        ),
        (
            Server("llama-server", 8080, EVERYWHERE, ("/srv/models/t.Q4.gguf",)),
            'external("gpu1-llama-server", url="http://192.0.2.2:8080", models={"t.Q4": "/srv/models/t.Q4.gguf"}),',
        ),
        (
            Server("vllm", 8000, ("10.0.0.2",), (), 401),
            'external("gpu1-vllm", url="http://10.0.0.2:8000", models=[], key=secret_env("GPU1_VLLM_KEY")),',
        ),
    ],
)
def test_the_line_can_be_pasted(server: Server, line: str) -> None:
    """It is Python as it stands, names the address that the queen reaches, and models by names that clients may use."""
    site, _, gpu = fleet()
    (row,) = found.report([server], site, gpu)
    assert row["line"] == line
    call = ast.parse(line.removesuffix(","), mode="eval").body
    assert isinstance(call, ast.Call)
    if server.models:
        fields = {str(item.arg): ast.literal_eval(item.value) for item in call.keywords}
        assert external("x", **fields).models


def test_a_name_of_a_foreign_server_forges_no_line() -> None:
    """Line breaks, escapes and marks that turn text around are shown as such, and the line stays one line of Python."""
    site, _, gpu = fleet()
    nasty = ('m"),\n  external("x", url=__import__("os").system("id")),', "\x1b[2Jm", "m\u202ereversed", "n" * 5000)
    rows = found.report([Server("ollama", 11434, EVERYWHERE, nasty)], site, gpu)
    said = found.lines("gpu1", rows, "x.py")
    assert all(text.isprintable() for text in said)
    assert len(said[0]) < 1000
    call = ast.parse(rows[0]["line"].removesuffix(","), mode="eval").body
    assert isinstance(call, ast.Call)
    fields = {str(item.arg): ast.literal_eval(item.value) for item in call.keywords}
    assert tuple(fields["models"].values()) == nasty


def test_what_only_its_own_host_reaches_is_said() -> None:
    """A server on loopback is of use to a queen on the same host; to another one only after a change that is named."""
    site, queen, gpu = fleet()
    server = Server("ollama", 11434, LOOPBACK, ("a",))
    (row,) = found.report([server], site, gpu)
    assert "the queen on queen cannot reach it: set OLLAMA_HOST=0.0.0.0" in row["remarks"][0]
    (row,) = found.report([server], site, queen)
    assert (row["remarks"], '"http://127.0.0.1:11434"' in row["line"]) == ([], True)


def test_what_is_declared_is_not_offered_again() -> None:
    """A server of the inventory is named as such, and a second one of its kind gets another name."""
    site, _, gpu = fleet(external=[external("gpu1-ollama", url="http://192.0.2.2:11434", models=["a"])])
    rows = found.report([Server("ollama", port, EVERYWHERE, ("a",)) for port in (11434, 11435)], site, gpu)
    assert [row["declared"] for row in rows] == ["gpu1-ollama", None]
    said = found.lines("gpu1", rows, "x.py")
    assert "  is external 'gpu1-ollama' already" in said
    assert '  external("gpu1-ollama-11435", url="http://192.0.2.2:11435", models=["a"]),' in said
    assert said[-1].endswith("then: rbee-deploy apply -i x.py")


def test_an_unknown_server_is_named_by_its_models_owner() -> None:
    """Behind a container tool's port the list of models tells what serves it."""
    row = {"server": "", "port": 8000, "addresses": ["0.0.0.0"], "status": 200, "models": [["m", "vllm"]]}
    assert [server.server for server in found.parse([row, {**row, "models": [["m", "me"]]}])] == ["vllm", "openai"]


@pytest.mark.parametrize(
    "own",
    ["llama3", "hf.co/org/x:Q4", "/a b/c d.gguf", "x.gguf", "///", "ä", "a" * 99, "C:\\m.gguf", "a..b"],
)
def test_every_name_becomes_one_that_clients_may_use(own: str) -> None:
    """Whatever a server calls its model, the inventory gets a legal name, and two models get two."""
    names = found.served([own, own + "2", own])
    assert all(check_name(name) for name in names)
    assert list(names.values()) == [own, own + "2", own]
