"""Rules of a lost engine that forward ports of the host: those to our containers go, and nobody else's."""

import json
import os
from pathlib import Path

import pytest

from rbee_deploy.activator import published
from tests.unit.deploy.activator.conftest import program


def rule(handle: int, *expr: object) -> dict[str, object]:
    return {"rule": {"family": "inet", "table": "netavark", "chain": "c", "handle": handle, "expr": [*expr]}}


DPORT = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 9000}}
RULES = [
    {"metainfo": {"version": "1.1.3"}},
    {"chain": {"family": "inet", "table": "netavark", "name": "c"}},
    rule(32, DPORT, {"dnat": {"family": "ip", "addr": "10.89.0.2", "port": 9000}}),
    rule(33, DPORT, {"dnat": {"family": "ip", "addr": "10.88.0.7", "port": 9000}}),
    rule(34, DPORT, {"dnat": {"family": "ip6", "addr": "fd00:1::2", "port": 9000}}),
    rule(35, DPORT, {"jump": {"target": "nv_dnat"}}),
    rule(36, DPORT, {"dnat": {"addr": {"map": {"key": "x"}}}}),
    rule(37, {"accept": None}),
]
NAT = """\
-P PREROUTING ACCEPT
-A DOCKER ! -i rbee-workers -p tcp -m tcp --dport 9001 -j DNAT --to-destination 10.89.0.3:9001
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -m comment --comment "a b" -j DNAT --to-destination 10.88.0.3:80
-A POSTROUTING -s 10.89.0.3/32 -d 10.89.0.3/32 -p tcp -m tcp --dport 9001 -j MASQUERADE
"""
NAT6 = "-A DOCKER -p tcp -m tcp --dport 9001 -j DNAT --to-destination [fd00:1::3]:9001\n"
ADDRESSES = [{"ifname": "rbee-workers", "addr_info": [{"local": "10.89.0.1", "prefixlen": 24}]}]
ADDRESSES[0]["addr_info"].append({"local": "fd00:1::1", "prefixlen": 64})  # type: ignore[attr-defined]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give tools that say what is in the files beside them, and note in `asked` what else they are told."""
    for name, listing in (("ip", "addr"), ("nft", "list"), ("iptables", "--list-rules"), ("ip6tables", "--list-rules")):
        program(
            tmp_path,
            name,
            f"""
            import pathlib, sys
            here = pathlib.Path({str(tmp_path)!r})
            if {listing!r} in sys.argv:
                sys.stdout.write((here / "{name}.out").read_text())
            else:
                with (here / "asked").open("a") as file:
                    file.write(" ".join([{name!r}, *sys.argv[1:]]) + "\\n")
                sys.exit((here / "refuses").exists())
            """,
        )
    for name, text in (
        ("ip", json.dumps(ADDRESSES)),
        ("nft", json.dumps({"nftables": RULES})),
        ("iptables", NAT),
        ("ip6tables", NAT6),
    ):
        (tmp_path / f"{name}.out").write_text(text)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


TO = "-j DNAT --to-destination "
WITHDRAWN = [
    "nft delete rule inet netavark c handle 32",
    "nft delete rule inet netavark c handle 34",
    f"iptables --table nat -D DOCKER ! -i rbee-workers -p tcp -m tcp --dport 9001 {TO}10.89.0.3:9001",
    f"ip6tables --table nat -D DOCKER -p tcp -m tcp --dport 9001 {TO}[fd00:1::3]:9001",
]


@pytest.mark.parametrize("refuses", [False, True])
def test_only_what_leads_to_our_network_goes(tools: Path, refuses: bool) -> None:
    """Of either family and either kind of rules; one that cannot be deleted keeps no other."""
    if refuses:
        (tools / "refuses").touch()
    published.withdraw("rbee-workers")
    assert (tools / "asked").read_text().splitlines() == WITHDRAWN


@pytest.mark.parametrize(
    ("name", "text", "left"),
    [
        ("ip", "", []),
        ("ip", "[]", []),
        ("ip", '[{"ifname": "x"}]', []),
        ("ip", "no json", []),
        ("nft", "", WITHDRAWN[2:]),
        ("nft", '{"nftables": 1}', WITHDRAWN[2:]),
        ("nft", "no json", WITHDRAWN[2:]),
        ("iptables", "", [*WITHDRAWN[:2], WITHDRAWN[3]]),
        ("iptables", "-A DOCKER -j DNAT --to-destination 999.1.1.1:1", [*WITHDRAWN[:2], WITHDRAWN[3]]),
    ],
)
def test_what_cannot_be_read_is_left(tools: Path, name: str, text: str, left: list[str]) -> None:
    """No bridge means no container of ours; what a tool does not say keeps none of the others."""
    (tools / f"{name}.out").write_text(text)
    published.withdraw("rbee-workers")
    asked = tools / "asked"
    assert (asked.read_text().splitlines() if asked.exists() else []) == left


def test_a_host_without_the_tools_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one that was never of containers."""
    monkeypatch.setenv("PATH", str(tmp_path))
    published.withdraw("rbee-workers")
    assert list(tmp_path.iterdir()) == []
