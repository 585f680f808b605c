"""A fleet in its daily life: hosts are maintained, secrets replaced, hosts go and come, and clients see nothing."""

import json
from collections.abc import Iterator

import pytest

from tests.e2e.fleets import Fleet, small_fleet, wait_for
from tests.e2e.streams import Asking, Stream
from tests.e2e.test_changes import changes
from tests.lab import LabHost

pytestmark = [pytest.mark.lab, pytest.mark.full]

SLOW = {"name": "slow", "source": "fake:tokens_per_s=5,slots=4,tokens=120", "slots": 4}
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Give a queen and two hosts that serve one model, each with a worker of it."""
    with small_fleet("daytwo", gpu_hosts=2) as made:
        for declared in made.hosts.values():
            declared["engines"] = []
        made.models["slow"] = {**SLOW, "replicas": "each_host"}
        made.deploy()
        made.wait_ready("slow", 2)
        yield made


def worker_pids(host: LabHost) -> str:
    """Return the main processes of a host's workers."""
    return host.run("systemctl show 'rbee-worker@*' -p MainPID --value").stdout.strip()


def test_a_host_is_rebooted_without_a_request_that_fails(fleet: Fleet) -> None:
    """Its open streams end whole, new requests go to the other host, and then it serves again with another boot."""
    host = fleet.lab.hosts["gpu1"]
    before = host.run(BOOT_ID).stdout
    streams = [Stream(fleet).begin() for _ in range(4)]
    with Asking(fleet) as asking:
        done = fleet.rbee_deploy("maintain", "gpu1", "--reboot")
        assert done.code == 0, done.errors
        answered = asking.answered
        wait_for("more answers", lambda: asking.answered > answered + 5)
    assert asking.failures == []
    assert [(stream.end().error, stream.finish) for stream in streams] == [("", "length")] * 4
    assert "in flight" in done.errors
    assert host.run(BOOT_ID).stdout != before
    assert {row["hive"] for row in fleet.workers("slow")} == {"gpu1", "gpu2"}
    assert done.output.endswith("gpu1: maintained, and as it was\n")


def test_a_command_that_fails_leaves_the_host_drained(fleet: Fleet) -> None:
    """Its output is shown, also as data, the exit status is 1, and what is named finishes the maintenance."""
    done = fleet.rbee_deploy("maintain", "gpu1", "--json", "--run", "id -u; echo out of paper >&2; exit 3")
    assert (done.code, done.report["status"]) == (1, 1)
    assert done.report["problem"].startswith("gpu1: maintain failed: the command failed with exit status 3")
    assert done.report["advice"] in done.errors
    told = done.report["result"]
    assert (told["host"], told["drained"], told["exit_status"]) == ("gpu1", True, 3)
    assert sorted(told["output"]) == ["0", "out of paper"]
    assert "gpu1: | 0" in done.errors
    assert "gpu1: | out of paper" in done.errors
    assert f"run rbee-deploy maintain gpu1 -i {fleet.inventory}" in done.errors
    hives = {row["name"]: row for row in fleet.admin("hives")}
    assert (hives["gpu1"]["drained"], hives["gpu1"]["workers"]) == (True, 0)
    again = fleet.rbee_deploy("maintain", "gpu1", "--json")
    assert (again.code, again.report["problem"], again.report["result"]["drained"]) == (0, None, False), again.errors
    assert {row["hive"] for row in fleet.workers("slow")} == {"gpu1", "gpu2"}


def test_the_queen_s_host_reboots_only_when_that_is_wanted(fleet: Fleet) -> None:
    """Clients are refused meanwhile, so that it takes a yes; nothing is touched without."""
    before = fleet.queen.run(BOOT_ID).stdout
    refused = fleet.rbee_deploy("maintain", "queen", "--reboot")
    assert (refused.code, "clients are refused while it reboots" in refused.errors) == (1, True)
    assert fleet.queen.run(BOOT_ID).stdout == before


def test_certificates_are_replaced_while_the_fleet_serves(fleet: Fleet) -> None:
    """Each host has other ones, workers keep their process and are accepted with their old ones, no request fails."""
    hosts = [fleet.lab.hosts[name] for name in ("gpu1", "gpu2")]
    before = [host.run("sha256sum /etc/rbee/credentials/*.pem").stdout.splitlines() for host in hosts]
    pids = [worker_pids(host) for host in hosts]
    with Asking(fleet) as asking:
        done = fleet.rbee_deploy("rotate", "certificates")
        assert done.code == 0, done.errors
        answered = asking.answered
        wait_for("more answers", lambda: asking.answered > answered + 5)
    assert asking.failures == []
    after = [host.run("sha256sum /etc/rbee/credentials/*.pem").stdout.splitlines() for host in hosts]
    for old, new in zip(before, after, strict=True):
        assert {line.split("/")[-1] for line in set(new) - set(old)} == {"hive.pem", "worker.pem"}
    assert [worker_pids(host) for host in hosts] == pids
    assert fleet.rbee_deploy("check").code == 0


def test_the_api_key_is_replaced_and_the_old_one_ends_when_told(fleet: Fleet) -> None:
    """Both work in between, requests with the old one go on, and no key is printed."""
    old, client = fleet.api_key, fleet.client()
    with Asking(fleet) as asking:
        done = fleet.rbee_deploy("rotate", "api-key")
        assert done.code == 0, done.errors
    assert (asking.failures, fleet.api_key == old) == ([], False)
    assert fleet.client(key=old).models.list().data
    assert fleet.client().models.list().data
    ended = fleet.rbee_deploy("rotate", "api-key", "--revoke-old")
    assert ended.code == 0, ended.errors
    with pytest.raises(Exception, match="401"):
        client.models.list()
    assert fleet.client().models.list().data
    assert fleet.rbee_deploy("rotate", "api-key", "--revoke-old").output == "there is no old key to revoke\n"
    said = done.output + done.errors + ended.output + ended.errors
    assert [key for key in (old, fleet.api_key) if key in said] == []


def test_a_restore_says_which_keys_came_back_and_went(fleet: Fleet) -> None:
    """A key that was revoked since the backup is valid again, the one made since is the queen's first and stays."""
    backup, old = fleet.lab.directory / "before.db", fleet.api_key
    assert fleet.rbee_deploy("backup", "-o", str(backup)).code == 0
    for words in (("rotate", "api-key"), ("rotate", "api-key", "--revoke-old")):
        assert fleet.rbee_deploy(*words).code == 0
    made = fleet.admin("keys", method="POST", name="guest", scopes=["infer"])["id"]
    done = fleet.rbee_deploy("restore", str(backup))
    assert done.code == 0, done.errors
    came = old.split("_")[1]
    assert f"key {came} (bootstrap) is valid again" in done.output
    assert f"key {made} (guest) is gone" in done.output
    assert done.output.count("\nkey ") + done.output.startswith("key ") == 2
    assert fleet.client(key=old).models.list().data
    assert fleet.client().models.list().data
    fleet.admin(f"keys/{came}", method="DELETE")


def test_a_dead_queen_holds_no_maintenance_up(fleet: Fleet) -> None:
    """It is said that the host was not drained, and no line calls that a change."""
    queen = fleet.queen
    queen.run("systemctl stop rbee-queen.socket rbee-queen.service")
    try:
        done = fleet.rbee_deploy("maintain", "gpu1", "--run", "true")
    finally:
        queen.run("systemctl start rbee-queen.socket rbee-queen.service")
    assert done.code == 0, done.errors
    assert "gpu1: the queen could not be asked to drain it, so it is not drained" in done.errors
    assert "gpu1: the queen could not be asked to give it work" in done.errors
    lines = [line.split() for line in done.errors.splitlines() if line.startswith("queen ")]
    assert {words[1]: words[4] for words in lines if words[1].endswith("drain")} == {
        "drain": "unchanged",
        "undrain": "unchanged",
    }
    fleet.wait_ready("slow", 2)


LEFT = (
    "ls -d /opt/rbee /etc/rbee /var/lib/rbee/hive /var/lib/rbee/deploy /run/rbee* /etc/polkit-1/rules.d/*rbee* "
    "/etc/systemd/system/rbee* /etc/systemd/system/*/rbee* 2>/dev/null; "
    "systemctl list-units --all --plain --no-legend 'rbee*'; "
    "pgrep -u rbee-hive,rbee-worker"
)


def test_a_host_that_the_inventory_lost_is_purged(fleet: Fleet) -> None:
    """Nothing of rbee is left there but models; a second purge has nothing to do, and an apply brings all back."""
    host, declared = fleet.lab.hosts["gpu2"], fleet.hosts.pop("gpu2")
    kept = "/var/lib/rbee/models/blobs/sha256-canary"
    host.put("weights", kept)
    try:
        done = fleet.rbee_deploy("purge", "--orphans", "--yes")
        assert (done.code, done.output) == (0, "gpu2: models are kept in /var/lib/rbee/models\n"), done.errors
        assert host.run(LEFT, check=False).stdout == ""
        assert host.run(f"cat {kept}").stdout == "weights"
        none = fleet.rbee_deploy("purge", "--orphans", "--yes", "--json")
        assert (none.code, none.report["result"]) == (0, {"hosts": []})
        again = fleet.rbee_deploy("purge", "--orphans", "--yes")
        assert (again.code, "has lost no host" in again.output) == (0, True)
        assert not (fleet.lab.directory / "secrets" / "hosts" / "gpu2").exists()
    finally:
        fleet.hosts["gpu2"] = declared
    assert fleet.rbee_deploy("purge", "gpu2", "--yes").code == 0
    host.run(f"rm {kept}")
    fleet.deploy()
    fleet.wait_ready("slow", 2)
    assert changes(fleet.deploy("--json")) == {}


def test_a_purge_takes_models_and_users_only_when_told(fleet: Fleet) -> None:
    """With --models the store and rbee's users go too; how the host is reached stays known, for it is declared."""
    host = fleet.lab.hosts["gpu2"]
    done = fleet.rbee_deploy("purge", "gpu2", "--models", "--yes", "--json")
    assert done.code == 0, done.errors
    assert done.report["result"] == {"hosts": [{"host": "gpu2", "notes": []}]}
    left = host.run("find /var/lib/rbee; getent passwd | grep ^rbee", check=False).stdout
    note = json.loads((fleet.lab.directory / "secrets" / "hosts" / "gpu2" / "connection.json").read_text())
    fleet.deploy()
    fleet.wait_ready("slow", 2)
    assert (left, note["address"]) == ("", host.address)


def test_another_authority_comes_to_hosts_only_when_that_is_wanted(fleet: Fleet) -> None:
    """Who lacks the fleet's secrets is refused and changes nothing; told so, every host goes over and serves again."""
    secrets = fleet.lab.directory / "secrets"
    secrets.rename(secrets.with_name("lost"))
    fingerprint = "sha256sum /etc/rbee/credentials/* /var/lib/rbee/deploy/state.json"
    before = [host.run(fingerprint).stdout for host in fleet.lab.hosts.values()]
    refused = fleet.rbee_deploy("apply")
    assert (refused.code, refused.errors.count("deployed with another authority")) == (1, len(before))
    assert [host.run(fingerprint).stdout for host in fleet.lab.hosts.values()] == before
    done = fleet.rbee_deploy("apply", "--new-authority")
    assert done.code == 0, done.errors
    # A worker that ran before shows its hive a certificate of the old one until the hive gives it up, after 120 s.
    fleet.wait_ready("slow", 2, seconds=240)
    assert fleet.rbee_deploy("check").code == 0
