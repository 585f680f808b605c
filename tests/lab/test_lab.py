"""The lab makes real hosts in seconds and leaves nothing behind, however a run ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, LabError, LabHost
from tests.lab.network import link_exists
from tests.lab.processes import keepers, wait_for

pytestmark = pytest.mark.lab

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
MAKE_AND_WAIT = """
import signal, time
from tests.lab import Lab
signal.signal(signal.SIGINT, signal.default_int_handler)
lab = Lab.create("interrupted")
lab.add_host("victim")
print(lab.name, flush=True)
time.sleep(60)
"""
AS_NOBODY = """
import os
from tests.lab import LabUnavailableError, require_lab
os.setuid(65534)
try:
    require_lab()
except LabUnavailableError as error:
    print(error)
"""


def output_of(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def folders(top: str) -> Iterator[str]:
    """Every folder and file below; those that other labs take away meanwhile are passed over (a glob would raise)."""
    for path, _, names in os.walk(top):
        yield path
        yield from names


def traces(lab: Lab) -> list[str]:
    """Every place of this machine where a lab shows; names are unique, so labs of others do not matter."""
    places = {
        "link": output_of("ip", "-brief", "link"),
        "mount": Path("/proc/self/mountinfo").read_text(),
        "process": output_of("ps", "-eo", "args"),
        "firewall": output_of("nft", "list", "tables"),
        "cgroup": "\n".join(folders("/sys/fs/cgroup")),
        "runtime": "\n".join(folders("/run/systemd")),
        "folder": str(lab.directory) if lab.directory.exists() else "",
    }
    return [place for place, text in places.items() if lab.name in text]


def ssh(host: LabHost, command: str, user: str = "ops") -> subprocess.CompletedProcess[str]:
    return subprocess.run(host.ssh_argv(command, user=user), capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.create("lab-tests") as made:
        yield made


@pytest.fixture(scope="module")
def host(lab: Lab) -> LabHost:
    return lab.add_host("first")


def test_a_second_host_costs_seconds(lab: Lab, host: LabHost) -> None:
    """With the image cached, one more host answers SSH in far less time than a virtual machine needs."""
    started = time.monotonic()
    second = lab.add_host("second")
    assert time.monotonic() - started < 60
    assert second.address != host.address
    assert second.run(f"bash -c 'exec 3<>/dev/tcp/{host.address}/22; head -c 4 <&3'").stdout == "SSH-"


@pytest.mark.parametrize(("image", "python"), [("trixie", "3.13"), ("bookworm", "3.11")])
def test_hosts_are_healthy_systemd_machines(lab: Lab, image: str, python: str) -> None:
    """PID 1 is systemd, nothing failed, and the Python is the suite's own."""
    made = lab.add_host(f"healthy-{image}", image=image)
    assert made.run("cat /proc/1/comm; systemctl is-system-running").stdout.split() == ["systemd", "running"]
    assert made.run("python3 --version").stdout.startswith(f"Python {python}")
    assert made.run("hostname").stdout.strip() == made.name


@pytest.mark.parametrize(
    ("user", "sudo", "expected"),
    [
        ("ops", "sudo -n id -un", "root\n"),
        ("opspw", "sudo -n id -un", ""),
        ("opspw", f"echo '{LabHost.sudo_password}' | sudo -S -p '' id -un", "root\n"),
        ("nosudo", f"echo '{LabHost.sudo_password}' | sudo -S -p '' id -un", ""),
        ("root", "id -un", "root\n"),
    ],
)
def test_logins_have_the_rights_of_real_ones(host: LabHost, user: str, sudo: str, expected: str) -> None:
    """Each login enters by key with strict host key checking, and its sudo is what its name says."""
    assert ssh(host, "true", user).returncode == 0
    assert ssh(host, sudo, user).stdout == expected


def test_hosts_are_offline_by_default(host: LabHost) -> None:
    """A host has no way out of its lab, and finds out at once."""
    assert "default" not in host.run("ip route").stdout
    assert "unreachable" in host.run("timeout 5 bash -c 'echo > /dev/tcp/192.0.2.1/80'", check=False).stderr


def test_run_reports_like_a_subprocess(host: LabHost) -> None:
    """Input, output, status, a failure's words and a limit on time all come through."""
    assert host.run("tr a-z A-Z", input="loud").stdout == "LOUD"
    assert host.run("id -un", user="opspw").stdout == "opspw\n"
    assert host.run("exit 3", check=False).returncode == 3
    with pytest.raises(LabError, match=r"on first, 'ls /nowhere' failed with 2: .*nowhere"):
        host.run("ls /nowhere")
    with pytest.raises(LabError, match=r"did not end within 0.2 s"):
        host.run("sleep 5", timeout=0.2)


def test_a_daemon_started_by_run_belongs_to_the_host(host: LabHost) -> None:
    """It blocks nobody with its open output, and it dies with the host, not with the test."""
    started = time.monotonic()
    pid = host.run("sleep 47 & echo $!").stdout.strip()
    assert time.monotonic() - started < 40
    assert host.run(f"cat /proc/{pid}/cgroup").stdout.splitlines()[-1].endswith("::/lab-run")
    host.run(f"kill {pid}")


def test_put_writes_bytes_with_a_mode(host: LabHost) -> None:
    """What is put is there, byte for byte, in folders that are made on the way."""
    host.put(b"\x00\xffraw", "/srv/a folder/raw", mode=0o600)
    assert host.run("stat -c %a '/srv/a folder/raw'; od -An -tx1 '/srv/a folder/raw'").stdout.split() == [
        "600", "00", "ff", "72", "61", "77",
    ]  # fmt: skip


def test_a_reboot_is_a_new_boot_of_the_same_disk(lab: Lab) -> None:
    """The boot id changes, files and host key stay."""
    made = lab.add_host("reboots")
    before = made.run(BOOT_ID).stdout
    made.put("kept", "/etc/kept")
    made.reboot()
    assert made.run(BOOT_ID).stdout != before
    assert ssh(made, "cat /etc/kept").stdout == "kept"


@pytest.mark.parametrize("stop", ["hard_stop", "power_off"])
def test_a_stopped_host_is_gone_until_it_boots(lab: Lab, stop: str) -> None:
    """No process, no link, no answer; then the same disk boots again."""
    made = lab.add_host(f"stops-{stop.replace('_', '-')}")
    made.put("kept", "/etc/kept")
    getattr(made, stop)()
    assert not made.is_running
    assert not keepers(made.directory)
    assert not link_exists(made.record.link)
    made.boot()
    assert ssh(made, "cat /etc/kept").stdout == "kept"


def test_a_partition_cuts_the_path_and_only_the_path(lab: Lab) -> None:
    """The host runs on with its address, stays cut over a reboot, and answers again when healed."""
    made = lab.add_host("cut")
    made.partition()
    assert not made.answers_ssh()
    assert made.address in made.run("ip -4 address show dev host0").stdout
    made.reboot(wait=False)
    assert not wait_for(made.answers_ssh, timeout=3)
    made.heal()
    made.wait_until_up()
    assert ssh(made, "true").returncode == 0


def test_a_bad_host_can_be_prepared(lab: Lab) -> None:
    """A test edits the tree before the first boot, and binds folders of this machine."""
    made = lab.add_host(
        "bad",
        prepare=lambda root: (root / "usr/bin/sudo").unlink(),
        binds=[(REPOSITORY, "/srv/rbee", True)],
    )
    assert made.run("test -e /usr/bin/sudo", check=False).returncode == 1
    assert made.run("touch /srv/rbee/x", check=False).stderr.strip().endswith("Read-only file system")


def test_a_host_that_cannot_boot_is_named_and_removed(lab: Lab) -> None:
    """The message carries the console's words and nothing stays of the host."""

    def take_init_away(root: Path) -> None:
        (root / "usr/lib/systemd/systemd").unlink()

    with pytest.raises(LabError, match=r"broken went down while it booted: .*init"):
        lab.add_host("broken", prepare=take_init_away)
    assert "broken" not in lab.hosts
    assert not (lab.directory / "hosts/broken").exists()


def test_two_labs_at_once_do_not_clash(lab: Lab, host: LabHost) -> None:
    """Same host names, own subnets; one goes and the other stays."""
    with Lab.create("other") as other:
        twin = other.add_host("first")
        assert other.state().subnet != lab.state().subnet
        assert twin.run(BOOT_ID).stdout != host.run(BOOT_ID).stdout
    assert ssh(host, "true").returncode == 0


def test_nothing_stays_when_a_test_fails() -> None:
    """An exception inside the block takes processes, mounts, links, cgroups and folders with it."""
    with pytest.raises(ZeroDivisionError), Lab.create("fails") as made:  # noqa: PT012  the block is what is tested
        made.add_host("one")
        assert set(traces(made)) == {"link", "mount", "process", "cgroup", "runtime", "folder"}
        raise ZeroDivisionError
    assert traces(made) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_is_cleaned_up(number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM clean up on their own; after SIGKILL the next run does, also when several start at once."""
    child = subprocess.Popen([sys.executable, "-c", MAKE_AND_WAIT], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        left = Lab.open(child.stdout.readline().strip())
        os.kill(child.pid, number)
        child.wait(timeout=90)
    if number == signal.SIGKILL:
        clean = [sys.executable, "-m", "tests.lab", "clean"]
        sweeps = [subprocess.Popen(clean, cwd=REPOSITORY, stdout=subprocess.DEVNULL) for _ in range(3)]
        assert [sweep.wait(timeout=60) for sweep in sweeps] == [0, 0, 0]
    assert traces(left) == []


def test_a_persistent_lab_outlives_its_run_and_comes_back() -> None:
    """It is not stale, another process finds it by name, and `resume` makes lost parts again."""
    made = Lab.create("stays", persistent=True)
    try:
        made.add_host("one")
        assert made.name not in Lab.clean_stale()
        listed = output_of(sys.executable, "-m", "tests.lab", "list")
        assert f"{made.name}  stays" in listed
        made.hosts["one"].hard_stop()
        subprocess.run(["ip", "link", "delete", made.name], check=True)
        Lab.open(made.name).resume()
        assert ssh(made.hosts["one"], "true").returncode == 0
    finally:
        made.destroy()
    assert traces(made) == []


def test_without_root_one_sentence_says_what_to_do() -> None:
    """No traceback, no half-made lab."""
    said = output_of(sys.executable, "-c", AS_NOBODY)
    assert said == "the lab makes hosts with systemd-nspawn and needs root: run the command with sudo\n"
