"""What the systemd launcher asks and how it reads the answers; units themselves are for hosts that have systemd."""

import pytest

from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers import Phase, UnitStatus, systemd

SHOW = """\
Id=rbee-worker@up.service
LoadState=loaded
ActiveState=active
SubState=running
MainPID=812
Result=success
ExecMainCode=0
ExecMainStatus=0
Job=0

Id=rbee-worker@loading.service
LoadState=loaded
ActiveState=activating
SubState=start
MainPID=813
Result=success
ExecMainCode=0
ExecMainStatus=0
Job=771

MainPID=814
Result=success
ExecMainCode=0
ExecMainStatus=0
Id=rbee-worker@leaving.service
LoadState=loaded
ActiveState=deactivating
SubState=stop-sigterm
Job=772

Id=rbee-worker@bad-model.service
LoadState=loaded
ActiveState=failed
SubState=failed
MainPID=0
Result=exit-code
ExecMainCode=1
ExecMainStatus=65

Id=rbee-worker@killed.service
LoadState=loaded
ActiveState=failed
SubState=failed
MainPID=0
Result=signal
ExecMainCode=2
ExecMainStatus=9

Id=rbee-worker@oom.service
LoadState=loaded
ActiveState=failed
SubState=failed
MainPID=0
Result=oom-kill
ExecMainCode=2
ExecMainStatus=9

Id=rbee-worker@no-credentials.service
LoadState=loaded
ActiveState=failed
SubState=failed
MainPID=0
Result=resources
ExecMainCode=0
ExecMainStatus=0

Id=rbee-worker@again.service
LoadState=loaded
ActiveState=failed
SubState=failed
MainPID=0
Result=exit-code
ExecMainCode=1
ExecMainStatus=70
Job=790

Id=rbee-worker@done.service
LoadState=loaded
ActiveState=inactive
SubState=dead
MainPID=0
Result=success
ExecMainCode=1
ExecMainStatus=0
"""

READ = [
    UnitStatus("up", Phase.RUNNING, pid=812),
    UnitStatus("loading", Phase.STARTING, pid=813),
    UnitStatus("leaving", Phase.STOPPING, pid=814),
    UnitStatus("bad-model", Phase.ENDED, exit_status=65),
    UnitStatus("killed", Phase.ENDED, exit_signal=9),
    UnitStatus("oom", Phase.ENDED, exit_signal=9, out_of_memory=True, said="systemd says oom-kill"),
    UnitStatus("no-credentials", Phase.ENDED, said="systemd says resources"),
    UnitStatus("again", Phase.STARTING, said="systemd has queued its start"),
]


@pytest.mark.parametrize("status", READ, ids=lambda status: status.worker)
def test_each_unit_is_read_as_it_is(status: UnitStatus) -> None:
    """Active, changing and failed units, exit statuses and signals come out of one `systemctl show`."""
    assert systemd.parse_show(SHOW)[status.worker] == status


def test_a_unit_that_ended_well_is_not_listed() -> None:
    """Inactive units are unloaded by systemd when it likes, so being loaded means nothing."""
    assert "done" not in systemd.parse_show(SHOW)


@pytest.mark.parametrize("text", ["", "\n", "\n\n\n"])
def test_no_units_are_no_workers(text: str) -> None:
    """An empty answer is an empty list."""
    assert systemd.parse_show(text) == {}


def test_one_call_lists_all_workers() -> None:
    """The listing is a single command over the template's instances."""
    assert systemd.list_command() == [
        "systemctl",
        "show",
        "--all",
        "rbee-worker@*.service",
        "--property=Id,LoadState,ActiveState,SubState,Job,MainPID,Result,ExecMainCode,ExecMainStatus",
    ]


@pytest.mark.parametrize(
    ("verb", "command"),
    [
        ("start", "systemctl --no-ask-password --no-block start rbee-worker@w-1.service"),
        ("stop", "systemctl --no-ask-password --no-block stop rbee-worker@w-1.service"),
        ("reset-failed", "systemctl --no-ask-password reset-failed rbee-worker@w-1.service"),
    ],
)
def test_actions_never_wait_or_ask(verb: str, command: str) -> None:
    """Jobs are queued, and no password is asked for."""
    assert systemd.action_command(verb, "w-1") == command.split()


def test_logs_come_from_the_units_journal() -> None:
    """The journal is read for exactly one unit, the text alone."""
    command = "journalctl --quiet --no-pager -o cat -n 50 -u rbee-worker@w-1.service"
    assert systemd.logs_command("w-1", 50) == command.split()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/nowhere/systemctl"], "cannot try: /nowhere/systemctl is not usable"),
        (["sh", "-c", "echo 'Access denied' >&2; exit 4"], "cannot try: Access denied"),
        (["sh", "-c", "exit 3"], "cannot try: exit status 3"),
    ],
)
async def test_a_refusal_is_one_sentence(command: list[str], said: str) -> None:
    """A missing program, a refusal and a silent failure say what could not be done."""
    with pytest.raises(LauncherError, match=said):
        await systemd._run(command, "try")


async def test_a_silent_manager_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs ends after its deadline, and so does its process."""
    monkeypatch.setattr(systemd, "CALL_SECONDS", 0.2)
    with pytest.raises(LauncherError, match="gave no answer"):
        await systemd._run(["sleep", "60"], "try")


class Refusing(systemd.SystemdLauncher):
    """A launcher on a host whose rules refuse some verbs; `asked` are the stops that were queued."""

    def __init__(self, *, stop: str = "") -> None:
        super().__init__()
        self.asked: list[str] = []
        self._refusal = stop

    async def stop(self, worker: str) -> None:
        if self._refusal:
            raise LauncherError(self._refusal)
        self.asked.append(worker)


async def test_a_refused_kill_becomes_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rules of an older host refuse the kill, the unit's stop is queued, and the refusal is still told."""
    refusal = ["sh", "-c", "echo 'Access denied' >&2; exit 4"]
    monkeypatch.setattr(systemd, "kill_command", lambda _: refusal)
    launcher = Refusing()
    with pytest.raises(LauncherError, match="cannot kill worker w-1: Access denied; its stop is queued instead"):
        await launcher.kill("w-1")
    assert launcher.asked == ["w-1"]


async def test_a_host_that_refuses_everything_is_told_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill and stop refused: both sentences and what a person can do."""
    monkeypatch.setattr(systemd, "kill_command", lambda _: ["sh", "-c", "exit 4"])
    with pytest.raises(LauncherError, match="exit status 4; cannot stop worker w-1: no; run the deploy again"):
        await Refusing(stop="cannot stop worker w-1: no").kill("w-1")


async def test_what_is_not_there_needs_no_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that systemd has not loaded has no process: nothing is refused and nothing is asked instead."""
    monkeypatch.setattr(systemd, "kill_command", lambda _: ["sh", "-c", "echo 'Unit x not loaded.' >&2; exit 5"])
    launcher = Refusing()
    await launcher.kill("w-1")
    assert launcher.asked == []
