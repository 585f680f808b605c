"""Whether the host's system is one that rbee runs on: distribution, processor, systemd, Python, polkit, clock."""

from collections.abc import Iterator

from rbee_deploy import pythons
from rbee_deploy.preflight.checks import Case, Check, Finding, Scope, Severity, listed
from rbee_deploy.versions import version

LEAST_SYSTEMD = 250
LEAST_POLKIT = "0.106"
"""The first with rules in JavaScript."""
MOST_CLOCK_SECONDS = 300
"""Certificates and logs of two hosts disagree beyond this."""
ARCHITECTURES = ("x86_64", "aarch64")
CONTROLLERS = ("cpu", "memory", "pids")

_EL = {"rhel": "RHEL", "rocky": "Rocky Linux", "almalinux": "AlmaLinux", "centos": "CentOS", "ol": "Oracle Linux"}
OLDEST = {"debian": "12", "ubuntu": "24.04", "fedora": "41", **dict.fromkeys(_EL, "9")}
"""The oldest release of each distribution that has what rbee needs."""


def _distribution_is_new_enough(case: Case) -> Iterator[Finding]:
    name, have = case.facts.os_id, case.facts.os_version
    if name in OLDEST and have and version(have) < version(OLDEST[name]):
        yield Finding(
            f"{_EL.get(name, name.capitalize())} {have} is too old: its systemd is older than {LEAST_SYSTEMD} or its "
            f"Python older than {_least_python()}",
            "upgrade it to Debian 12 or 13, Ubuntu 24.04, Fedora 41 or Enterprise Linux 9, or newer",
        )


def _least_python() -> str:
    return pythons.versions()[0]


def _architecture_is_known(case: Case) -> Iterator[Finding]:
    if case.facts.arch is not None and case.facts.arch not in ARCHITECTURES:
        yield Finding(
            f"its architecture is {case.facts.arch}",
            f"use a host with {' or '.join(ARCHITECTURES)}: there are no builds for others",
        )


def _libc_is_glibc(case: Case) -> Iterator[Finding]:
    if case.facts.arch is not None and case.facts.glibc is None:
        yield Finding(
            "it does not say which glibc it has, so it may have another C library",
            "use a distribution with glibc, and make sure that getconf GNU_LIBC_VERSION prints it there",
        )


def _systemd_runs_it(case: Case) -> Iterator[Finding]:
    facts = case.facts
    if facts.is_systemd_pid1 is False:
        yield Finding("systemd is not its process 1", "boot it with systemd; a plain container is not a host")
    elif facts.systemd is not None and facts.systemd < LEAST_SYSTEMD:
        yield Finding(
            f"systemd {facts.systemd} is older than {LEAST_SYSTEMD}", "upgrade it to Debian 12, Ubuntu 24.04 or newer"
        )


def _python_fits(case: Case) -> Iterator[Finding]:
    facts, fix = case.facts, f"install Python {pythons.SPAN}, such as the package python3"
    if pythons.fits(facts.python, facts.python_lacks):
        return
    if facts.python is not None and pythons.number(facts.python) > pythons.NEWEST:
        yield Finding(
            f"Python {facts.python} is newer than any that rbee has packages for",
            f"install Python {pythons.SPAN} beside it, such as the package python3.{pythons.NEWEST[1]}",
        )
    elif case.installs is not None:
        return
    elif facts.python is None:
        yield Finding("it has no Python", fix)
    elif pythons.number(facts.python) < pythons.OLDEST:
        yield Finding(f"Python {facts.python} is older than {_least_python()}", fix)
    else:
        yield Finding(f"Python {facts.python} comes without {listed(facts.python_lacks.split())}", fix)


def _polkit_is_there(case: Case) -> Iterator[Finding]:
    facts = case.facts
    if facts.polkit is False and case.installs is None:
        yield Finding(
            "polkit is missing, without which the hive cannot start workers", "install the package polkitd (or polkit)"
        )
    if facts.polkit and facts.polkit_version and version(facts.polkit_version) < version(LEAST_POLKIT):
        yield Finding(
            f"polkit {facts.polkit_version} is older than {LEAST_POLKIT} and does not read rules in JavaScript",
            "upgrade polkit, or the host to a newer release of its distribution",
        )


def _clock_is_right(case: Case) -> Iterator[Finding]:
    if case.facts.clock_unix is None:
        return
    off = case.facts.clock_unix - case.operator_now
    if abs(off) > MOST_CLOCK_SECONDS:
        yield Finding(
            f"its clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's",
            "run timedatectl set-ntp true on it, or correct this machine's clock",
        )


def _limits_work(case: Case) -> Iterator[Finding]:
    facts = case.facts
    if facts.cgroup == "legacy":
        yield Finding(
            "its control groups are the legacy hierarchy, on which limits of memory, processor and processes may not "
            "hold for workers",
            "boot it with systemd.unified_cgroup_hierarchy=1",
        )
    missing = [name for name in CONTROLLERS if name not in facts.controllers]
    if facts.cgroup == "unified" and missing:
        yield Finding(
            f"it has no control group controllers of {listed(missing)}, so such limits do not hold for workers",
            "if you count on limits, enable them in its kernel, or delegate them to it where it is a nested host",
        )


DISTRIBUTION = Check(
    id="distribution",
    title="The distribution is new enough",
    looks_at="`ID` and `VERSION_ID` in `/etc/os-release`",
    fails_when="it is Debian before 12, Ubuntu before 24.04, Fedora before 41 or Enterprise Linux before 9",
    why="older ones lack the systemd or the Python that the units and the release need; others are taken by what they "
    "have, not by their name",
    fix="upgrade the host",
    find=_distribution_is_new_enough,
    gate=True,
)
ARCHITECTURE = Check(
    id="architecture",
    title="The processor's architecture is known",
    looks_at="`uname -m`",
    fails_when=f"it is neither {' nor '.join(ARCHITECTURES)}",
    why="a host gets ready-made wheels and the installer for its architecture, and there are none for others",
    fix="use another host",
    find=_architecture_is_known,
)
LIBC = Check(
    id="c-library",
    title="The C library is glibc",
    looks_at="`getconf GNU_LIBC_VERSION`",
    fails_when="it prints no version, as on distributions with musl",
    why="wheels are chosen by the version of glibc, and run on no other library",
    fix="use a distribution with glibc",
    find=_libc_is_glibc,
)
SYSTEMD = Check(
    id="systemd",
    title="systemd runs the host",
    looks_at="the name of process 1 and `systemctl --version`",
    fails_when=f"process 1 is not systemd, or systemd is older than {LEAST_SYSTEMD}",
    why="queen, hive and workers are units; their confinement and credentials need that version",
    fix="boot the host with systemd, or upgrade it",
    find=_systemd_runs_it,
)
PYTHON = Check(
    id="python",
    title="Python fits the release",
    looks_at="`python3`, then `python3.14` to `python3.11`, and the parts of the standard library that distributions "
    "split off",
    fails_when=f"none of {pythons.SPAN} is there and setup knows no package for it, or only newer ones are there",
    why="a release holds wheels for exactly one version of Python, and these are the versions that they exist for",
    fix="install such a Python; on Debian, Ubuntu, Fedora and Enterprise Linux setup does it",
    find=_python_fits,
)
POLKIT = Check(
    id="polkit",
    title="polkit reads the hive's rule",
    looks_at="where distributions put `polkitd`, and `pkaction --version`",
    fails_when=f"it is missing and setup does not know its package, or it is older than {LEAST_POLKIT}",
    why="one rule in JavaScript is what lets the hive start and stop its own workers' units, and nothing else",
    fix="install polkit; on Debian, Ubuntu, Fedora and Enterprise Linux setup does it",
    find=_polkit_is_there,
    scope=Scope.BARE_HIVE,
)
CLOCK = Check(
    id="clock",
    title="The clock is right",
    looks_at="the host's time and that of the machine that deploys",
    fails_when=f"they are more than {MOST_CLOCK_SECONDS} s apart",
    why="certificates are valid from a moment on, and logs of two hosts are read side by side",
    fix="run `timedatectl set-ntp true` on the host, or correct the other clock",
    find=_clock_is_right,
)
CONTROL_GROUPS = Check(
    id="control-groups",
    title="Limits of memory, processor and processes work",
    looks_at="`/sys/fs/cgroup/cgroup.controllers`",
    fails_when=f"one of {', '.join(CONTROLLERS)} is not there, or the hierarchy is the legacy one",
    why="limits of units and containers then do nothing or only part of what they say",
    fix="boot with the unified hierarchy, and delegate the controllers to a nested host",
    find=_limits_work,
    severity=Severity.HINT,
    scope=Scope.CONTAINER,
)
