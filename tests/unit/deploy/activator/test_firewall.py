"""Putting rules in force: what each firewall is told, what differs from them, and what is taken away again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_deploy.activator import __main__ as activator
from rbee_deploy.activator import firewall, places
from rbee_deploy.activator.firewall import FirewallError, commands, nftables
from rbee_deploy.activator.firewall.record import Record
from rbee_deploy.activator.firewall.rules import Kind, Rule, Rules
from tests.unit.deploy.activator.firewalls import LINK, OPEN, WORKERS, FakeTools


def test_the_table_of_nftables_is_one_transaction() -> None:
    """It replaces what is there, lets loopback and the named in, and drops what begins a connection of others."""
    assert nftables.script(Rules(Kind.NFTABLES, (OPEN, LINK, WORKERS))) == (
        "add table inet rbee\n"
        "delete table inet rbee\n"
        "table inet rbee {\n"
        "\tchain input {\n"
        "\t\ttype filter hook input priority filter - 10; policy accept;\n"
        '\t\tiifname "lo" accept\n'
        "\t\ttcp dport 8501 ip saddr { 10.0.0.2 } accept\n"
        "\t\ttcp dport 8501 ip6 saddr { fd00::2 } accept\n"
        "\t\ttcp dport 8501 tcp flags & (syn | ack) == syn drop\n"
        "\t\ttcp dport 9000-9099 tcp flags & (syn | ack) == syn drop\n"
        "\t}\n"
        "\tchain forward {\n"
        "\t\ttype filter hook forward priority filter - 10; policy accept;\n"
        '\t\toifname "rbee-workers" tcp dport 8501 ip saddr { 10.0.0.2 } accept\n'
        '\t\toifname "rbee-workers" tcp dport 8501 ip6 saddr { fd00::2 } accept\n'
        '\t\toifname "rbee-workers" tcp dport 8501 tcp flags & (syn | ack) == syn drop\n'
        '\t\toifname "rbee-workers" tcp dport 9000-9099 tcp flags & (syn | ack) == syn drop\n'
        "\t}\n"
        "}\n"
    )


def test_no_other_port_is_ever_named() -> None:
    """Whatever the rules, each line that drops is about a port of ours, and the policy is to accept."""
    text = nftables.script(Rules(Kind.NFTABLES, (LINK, WORKERS)))
    assert all(
        "tcp dport 8501 " in line or "tcp dport 9000-9099 " in line for line in text.splitlines() if "drop" in line
    )
    assert "policy accept" in text


def wanted(kind: Kind, *rules: Rule) -> None:
    """Write the file that says what is wanted."""
    places.FIREWALL.write_text(Rules(kind, rules).text())


def everything(tools: FakeTools) -> tuple[object, ...]:
    """Return what is in force."""
    return (
        tools.table,
        sorted(tools.ufw),
        [sorted(rules) for zones in tools.zones.values() for rules in zones.values()],
    )


@pytest.mark.parametrize("kind", Kind)
def test_what_was_put_in_force_does_not_differ(tools: FakeTools, kind: Kind) -> None:
    """After applying, and applying again, nothing is wrong, and removing leaves what was there before."""
    before = everything(tools)
    wanted(kind, OPEN, LINK, WORKERS)
    firewall.apply()
    once = everything(tools)
    assert once != before
    assert firewall.differences() == []
    firewall.apply()
    assert everything(tools) == once
    firewall.remove()
    assert everything(tools) == before
    assert not places.FIREWALL_HELD.exists()
    firewall.remove()


@pytest.mark.parametrize("kind", Kind)
def test_other_rules_are_a_difference_until_they_are_in_force(tools: FakeTools, kind: Kind) -> None:
    """Rules that the file had before and has no more are named as well, and go."""
    wanted(kind, OPEN, LINK)
    firewall.apply()
    wanted(kind, Rule(8501, 8501, ("10.0.0.3",)), WORKERS)
    assert firewall.differences()
    firewall.apply()
    assert firewall.differences() == []
    assert "10.0.0.2" not in str(everything(tools))
    assert "8500" not in str(everything(tools))


@pytest.mark.parametrize("kind", Kind)
def test_from_everybody_to_some_and_back(tools: FakeTools, kind: Kind) -> None:
    """A port may be given to networks alone and to everybody again."""
    some = Rule(8500, 8500, ("10.0.0.0/8",))
    for rule in (OPEN, some, OPEN, some):
        wanted(kind, rule)
        firewall.apply()
        assert firewall.differences() == []


def flushed(tools: FakeTools) -> None:
    tools.table = None


def edited(tools: FakeTools) -> None:
    tools.table = f"{tools.table}\t\taccept\n"


def ufw_lost(tools: FakeTools) -> None:
    tools.ufw = [line for line in tools.ufw if "10.0.0.2" not in line]


def ufw_more(tools: FakeTools) -> None:
    tools.ufw.append("allow from 10.9.9.9 to any port 8501 proto tcp comment 'rbee'")


def ufw_off(tools: FakeTools) -> None:
    tools.active = False


def firewalld_lost(tools: FakeTools) -> None:
    tools.zones[""]["public"].pop()


def firewalld_forgot(tools: FakeTools) -> None:
    tools.zones["--permanent"]["work"].clear()


DAMAGES: list[tuple[Kind, Callable[[FakeTools], None], str]] = [
    (Kind.NFTABLES, flushed, "table inet rbee is not in force: nft failed: Error: No such file or directory"),
    (Kind.NFTABLES, edited, "table inet rbee was changed"),
    (Kind.UFW, ufw_lost, "ufw lacks: allow from 10.0.0.2 to any port 8501 proto tcp"),
    (Kind.UFW, ufw_more, "ufw still has: allow from 10.9.9.9 to any port 8501 proto tcp"),
    (Kind.UFW, ufw_off, "ufw is not active; allow SSH in it and run ufw enable"),
    (
        Kind.FIREWALLD,
        firewalld_lost,
        'firewalld lacks the running rule priority="-105" port port="8501" protocol="tcp"',
    ),
    (Kind.FIREWALLD, firewalld_forgot, "firewalld lacks the lasting rule"),
]


@pytest.mark.parametrize(("kind", "damage", "said"), DAMAGES, ids=[damage.__name__ for _, damage, _ in DAMAGES])
def test_what_a_person_did_is_named(
    tools: FakeTools, capsys: pytest.CaptureFixture[str], kind: Kind, damage: Callable[[FakeTools], None], said: str
) -> None:
    """The check prints a line for each rule that differs, and applying puts it right unless the firewall is off."""
    wanted(kind, LINK)
    firewall.apply()
    damage(tools)
    assert activator.main(["firewall", "check"]) == 0
    assert capsys.readouterr().out.startswith(said)
    if tools.active:
        assert activator.main(["firewall", "apply"]) == 0
        assert firewall.differences() == []


def test_rules_of_a_person_stay(tools: FakeTools) -> None:
    """Rules of ufw without our comment, and rich rules that we did not add, are there after everything."""
    theirs = "allow 22/tcp", "allow from 10.0.0.2 to any port 8501 proto tcp"
    tools.ufw = list(theirs)
    tools.zones[""]["public"] = ['rule service name="ssh" accept']
    for kind in (Kind.UFW, Kind.FIREWALLD):
        wanted(kind, LINK)
        firewall.apply()
    firewall.remove()
    assert sorted(tools.ufw) == sorted(theirs)
    assert tools.zones[""]["public"] == ['rule service name="ssh" accept']


def test_a_rule_of_a_person_against_ours_is_named(tools: FakeTools) -> None:
    """It stays as it is, where ufw would turn it into ours without a word, and the sentence says how to delete it."""
    tools.ufw = ["allow 8501/tcp"]
    wanted(Kind.UFW, LINK)
    with pytest.raises(FirewallError, match=r"stands against 'deny 8501/tcp'; run ufw delete allow 8501/tcp there"):
        firewall.apply()
    assert "allow 8501/tcp" in tools.ufw


def test_ufw_allows_first_and_denies_last(tools: FakeTools) -> None:
    """What is allowed stands before a person's rules and what is denied behind them, whatever order they came in."""
    tools.ufw = ["limit 22/tcp"]
    wanted(Kind.UFW, LINK)
    firewall.apply()
    wanted(Kind.UFW, Rule(8501, 8501, ("10.0.0.2", "10.0.0.3")))
    firewall.apply()
    verbs = [line.split()[0] for line in tools.ufw]
    assert verbs == ["allow", "allow", "limit", "deny"]


@pytest.mark.parametrize("kind", Kind)
def test_another_kind_takes_over(tools: FakeTools, kind: Kind) -> None:
    """Going over to another firewall leaves nothing of ours in the one before."""
    for known in Kind:
        wanted(known, LINK)
        firewall.apply()
    wanted(kind, LINK)
    firewall.apply()
    assert set(Record.load().held) == set(Kind)
    assert firewall.differences() == []
    firewall.drop_others()
    assert list(Record.load().held) == [kind]
    assert firewall.differences() == []
    filled = [bool(part) for part in (tools.table, tools.ufw, tools.zones[""]["public"])]
    assert filled == [kind is known for known in Kind]


@pytest.mark.parametrize(("kind", "word"), [(Kind.NFTABLES, "-f"), (Kind.UFW, "deny"), (Kind.FIREWALLD, "--permanent")])
def test_what_failed_half_way_is_taken_back(tools: FakeTools, kind: Kind, word: str) -> None:
    """What was put in force before the failure is on record, so that removing finds all of it."""
    before = everything(tools)
    tools.fails = {word}
    wanted(kind, OPEN, LINK)
    assert activator.main(["firewall", "apply"]) == 1
    tools.fails = set()
    assert firewall.differences()
    firewall.remove()
    assert everything(tools) == before


def test_a_tool_that_was_uninstalled_holds_nothing(tools: FakeTools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking the firewall away goes on past a program that is not there any more."""
    wanted(Kind.UFW, LINK)
    firewall.apply()
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    firewall.remove()
    assert not firewall.is_held()


def test_a_tool_that_is_missing_or_fails_is_one_sentence(tmp_path: Path) -> None:
    """The program is named with what it said."""
    with pytest.raises(
        FirewallError, match=r"^/nowhere/nft is not there; install it, or drop firewall= from the inven"
    ):
        commands.run("/nowhere/nft")
    tool = tmp_path / "nft"
    tool.write_text("#!/bin/sh\necho 'Error: Could not process rule: Operation not supported' >&2\nexit 1\n")
    tool.chmod(0o755)
    with pytest.raises(FirewallError, match=r"nft failed: Error: Could not process rule: Operation not supported$"):
        commands.run(str(tool))
