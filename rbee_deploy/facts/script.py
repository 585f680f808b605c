"""The shell script behind RbeeState: sections `@name` followed by lines, so that the shell never has to write JSON.

Users without root choose some of what is printed: file names in the model store, names of processes. Only plain
characters of those are let through, or a name with a line break in it would begin a section of its own.
"""

import shlex
from typing import Protocol

from rbee_deploy import installs, pythons
from rbee_deploy.activator import places
from rbee_deploy.activator.engines import in_shell
from rbee_deploy.facts import equipment, guard, reach, selinux, worker_rules
from rbee_deploy.modes import ContainerEngine
from rbee_runtime import ports

POLKITS = ("/usr/lib/polkit-1/polkitd", "/usr/libexec/polkitd", "/usr/lib/policykit-1/polkitd")
PYTHONS = ("python3", *(f"python{version}" for version in reversed(pythons.versions())))
"""The distribution's default first; another one beside a default that does not fit is good enough for a release."""

_PROPERTIES = "Id,LoadState,ActiveState,SubState,Result,NRestarts,NeedDaemonReload,UnitFileState,MainPID"
UNIT_ROOTS = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd")

QUADLET_ROOTS = ("/etc", "/run", "/usr/share")

_VERSION = f"""\
import sys
try:
    from importlib.util import find_spec
    lacks = [name for name in {pythons.MODULES} if find_spec(name) is None]
except ImportError:
    lacks = ["importlib"]
print("%d.%d" % sys.version_info[:2], *lacks)
sys.exit(bool(lacks) or not {pythons.OLDEST} <= sys.version_info[:2] <= {pythons.NEWEST})
"""
_STAT = r"stat\t%F\t%a\t%U\t%G\t%s\t%n\n"

CONTAINERS = "rbee-worker-"
"""Begins the name of a worker's container."""

_PLAIN = "[!A-Za-z0-9._+-]"
_MOST_JSON = 1024**2
"""Bytes; running.json has some hundred, the manifest of a model of as many files as there may be 400 thousand."""

# The owner of a listening socket is named by its unit when that is one of ours, else by its command. A container of
# Docker has the sockets of our unit too, and is in none.
_LISTEN = r"""
echo @listen
if command -v ss >/dev/null 2>&1; then
  ss -Hltnp | while read -r _ _ _ local _ users; do
    name=${users#*\"}; name=${name%%\"*}
    while [ "$users" != "${users#*pid=}" ]; do
      users=${users#*pid=}; pid=${users%%,*}
      unit=$(grep -o "rbee-[^/]*" "/proc/$pid/cgroup" | head -n 1) && [ -n "$unit" ] && name=$unit && break
    done
    printf "%s %s\n" "$local" "$(printf %s "$name" | tr -dc "A-Za-z0-9 ._@:/()+-")"
  done | grep "^[^ @]*:[0-9]* "
else
  awk '$4 == "0A" {n = split($2, a, ":"); print ":" a[n]}' /proc/net/tcp /proc/net/tcp6 | while read -r hex; do
    echo ":$((0x${hex#:})) unknown"
  done
fi
"""


class Questions(Protocol):
    """What the script is about."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Owned paths."""

    @property
    def units(self) -> tuple[str, ...]:
        """Unit names and patterns."""

    @property
    def users(self) -> tuple[str, ...]:
        """User names."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Group names."""

    @property
    def models_dir(self) -> str:
        """The model store."""

    @property
    def queen(self) -> tuple[str, int] | None:
        """Address and port that the host is to connect to, if any."""

    @property
    def firewall(self) -> str | None:
        """The kind of firewall that the inventory asks for, if any."""

    @property
    def container_engine(self) -> str | None:
        """The engine of containers that the inventory asks for, if any."""

    @property
    def image_stores(self) -> tuple[str, ...]:
        """Where that one keeps images."""

    @property
    def caches(self) -> tuple[str, ...]:
        """Folders of the operator's that workers see."""


def build(asked: Questions) -> str:
    """Return the script; it writes nothing and goes on past anything that is missing."""
    parts = (
        "export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "echo @sudo ok",
        "echo @os; cat /etc/os-release",
        _machine(),
        'echo @cpu; grep -m 1 "^flags" /proc/cpuinfo | cut -d: -f2',
        _disk((str(ports.PREFIX), "/etc", str(ports.STATE), asked.models_dir, *asked.image_stores)),
        equipment.script(),
        reach.script(asked.queen),
        guard.script(asked.firewall),
        worker_rules.script(asked.container_engine),
        selinux.script(asked.container_engine, asked.models_dir, asked.caches),
        _LISTEN.strip(),
        _accounts(asked),
        _paths(asked.paths),
        f"echo @units; systemctl show -p {_PROPERTIES} -- {_words(asked.units)}" if asked.units else "",
        _drop_ins(),
        _running(),
        installs.FUNCTIONS,
        _installed("releases", str(ports.RELEASES), "release.json"),
        _installed("engines", str(ports.ENGINES), "engine.json"),
        _listing("tools", str(ports.PREFIX / "tools")),
        _listing("incoming", str(ports.PREFIX / "incoming"), f"{asked.models_dir}/incoming"),
        _images(asked.container_engine),
        _models(asked.models_dir),
        _deploys(),
        "exit 0",
    )
    return "\n".join(part for part in parts if part)


def _words(words: tuple[str, ...]) -> str:
    return " ".join(map(shlex.quote, words))


def _machine() -> str:
    return "\n".join(
        (
            "echo @machine",
            'echo "arch=$(uname -m)"',
            'echo "boot_id=$(cat /proc/sys/kernel/random/boot_id)"',
            'echo "clock_unix=$(date +%s)"',
            'echo "memory_kib=$(grep MemTotal /proc/meminfo | tr -dc 0-9)"',
            'echo "glibc=$(getconf GNU_LIBC_VERSION)"',
            'echo "pid1=$(cat /proc/1/comm)"',
            'echo "systemd=$(systemctl --version | head -n 1)"',
            f'echo "current=$(readlink {shlex.quote(str(ports.CURRENT))})"',
            f'for path in {_words(POLKITS)}; do [ -x "$path" ] && echo polkit=yes; done',
            'echo "polkit_version=$(timeout 3 pkaction --version </dev/null | tr -dc 0-9.)"',
            "python=",
            f"for name in {_words(PYTHONS)}; do",
            f"  version=$($name -I -c {shlex.quote(_VERSION)} </dev/null); status=$?",
            '  [ -n "$version" ] || continue',
            '  python=$(command -v $name); echo "python=$version"; echo "python_path=$python"',
            '  [ "$status" = 0 ] && break',
            "done",
        )
    )


def _disk(paths: tuple[str, ...]) -> str:
    return "\n".join(
        (
            "echo @disk",
            f"for asked in {_words(paths)}; do",
            '  there=$asked; while [ ! -e "$there" ]; do there=${there%/*}; there=${there:-/}; done',
            r'  printf "%s\t%s\n" "$asked" "$(df -Pk -- "$there" | awk "NR == 2 {print \$4}")"',
            "done",
        )
    )


def _accounts(asked: Questions) -> str:
    lines = ["echo @users"]
    if asked.users:
        lines.append(
            f"for name in {_words(asked.users)}; do"
            r' held=$(id -nG -- "$name") && printf "%s\t%s\n" "$name" "$held"; done'
        )
    lines.append("echo @groups")
    if asked.groups:
        lines.append(f"getent group {_words(asked.groups)} | cut -d: -f1")
    return "\n".join(lines)


def _paths(paths: tuple[str, ...]) -> str:
    if not paths:
        return "echo @paths"
    return "\n".join(
        (
            "echo @paths",
            f"set -- {_words(paths)}",
            f'stat --printf={shlex.quote(_STAT)} -- "$@"',
            "for path; do",
            r'  if [ -L "$path" ]; then printf "target\t%s\t%s\n" "$(readlink -- "$path")" "$path"',
            r'  elif [ -f "$path" ]; then sum=$(sha256sum <"$path")',
            r'    printf "sha256\t%s\t%s\n" "${sum%% *}" "$path"',
            "  fi",
            "done",
        )
    )


def _drop_ins() -> str:
    """Return the part that lists what changes our units from beside their files: `systemctl edit`, `set-property`."""
    systemds = [f"{root}/system{kind}/rbee*.d" for root in UNIT_ROOTS for kind in ("", ".control")]
    folders = " ".join((*systemds, *(f"{root}/containers/systemd/rbee*.d" for root in QUADLET_ROOTS)))
    return f'echo @drop_ins; for path in {folders}; do printf "%s\\n" "$path"/*.conf; done | grep -v "[*]"'


def _running() -> str:
    lines = ["echo @running"]
    for role, folder in (("queen", ports.QUEEN_RUN), ("hive", ports.HIVE_RUN)):
        path = shlex.quote(str(folder / ports.RUNNING_FILE))
        text = rf'"$(head -c {_MOST_JSON} <{path} | tr -d "\n\t")"'
        lines.append(rf'[ -f {path} ] && [ ! -L {path} ] && printf "{role}\t%s\n" {text}')
    return "\n".join(lines)


def _deploys() -> str:
    """Return the part about deploys: what was activated, who is at work, whether a person forbids it."""
    state, lease, freeze = (shlex.quote(str(path)) for path in (places.STATE, places.LEASE, places.FREEZE))
    generations = shlex.quote(str(places.GENERATIONS))
    lock = shlex.quote(str(places.LOCK))
    touched = f"touched=$(stat -c %Y {lease}) && age=$(($(date +%s) - touched))"
    contents = " ".join(shlex.quote(str(folder)) for folder in (places.BLOBS, places.SECRET_BLOBS))
    return "\n".join(
        (
            "echo @deploy",
            rf'[ -f {state} ] && printf "state\t%s\n" "$(head -c {_MOST_JSON} <{state} | tr -d "\n\t")"',
            # An activation holds it as long as it goes on; flock says 1 of what is held, and of no mistake of its own.
            rf"[ -f {lock} ] && {{ flock --nonblock --shared {lock} true; [ $? -eq 1 ] && echo activating; }}",
            rf'{touched} && printf "lease\t%s\t%s\n" "$age" "$(head -n 1 {lease})"',
            rf'[ -f {freeze} ] && printf "freeze\t%s\n" "$(head -n 1 {freeze})"',
            rf'for path in {generations}/*.json; do [ -f "$path" ] && printf "generation\t%s\n" "${{path##*/}}"; done',
            f'for folder in {contents}; do [ -d "$folder" ] && ls -- "$folder" | sed "s/^/content\\t/"; done',
        )
    )


def _installed(section: str, folder: str, marker: str) -> str:
    return "\n".join(
        (
            f"echo @{section}",
            f"for path in {shlex.quote(folder)}/*/; do",
            '  [ -d "$path" ] || continue; name=${path%/}; mark=partial',
            f'  [ -f "${{path}}{marker}" ] && mark=complete && {{ is_whole "$name" || mark=damaged; }}',
            r'  printf "%s\t%s\n" "$mark" "${name##*/}"',
            "done",
        )
    )


def _listing(section: str, *folders: str) -> str:
    return "\n".join(
        (
            f"echo @{section}",
            f"for path in {' '.join(f'{shlex.quote(folder)}/*' for folder in folders)}; do",
            _plain_name(),
            r'  [ -e "$path" ] && printf "%s\t%s\n" "$name" "$(stat -c %s -- "$path")"',
            "done",
        )
    )


# Whether ids of images are those of manifests: with containerd's store they are. And whether it gives devices by CDI:
# where it does not it knows no folder of them, and before 25 not even the word.
_DOCKER = """\
case $(docker info --format '{{.DriverStatus}}') in *containerd.snapshotter*) echo containerd;; esac
case $(docker info --format '{{.CDISpecDirs}}' 2>/dev/null) in *[/]*) echo cdi;; esac"""


NO_ANSWER = "failed"
"""In place of what makes its networks, where a Podman that answers did not say."""

# Twice: by its kind, and as it says of itself, such as "netavark 1.14.0".
_BACKEND = "{{.Host.NetworkBackendInfo.Backend}} {{.Host.NetworkBackendInfo.Version}}"


def _networks(name: str) -> str:
    """Return the command that asks a Podman what makes its networks; on a busy host, or before 4.6, it may fail."""
    asked = f"networks=$(timeout 20 {name} info --format {shlex.quote(_BACKEND)} </dev/null)"
    line = r'printf "%s\n" "$networks" | head -n 1 | tr -dc "A-Za-z0-9 ._+-"'
    return f'{asked} && echo "@networks $({line})"'


def _images(engine: str | None) -> str:
    if engine is None:
        return ""
    # The words of a command; it fails where the engine's user is yet to be made.
    name, program = in_shell(engine), shlex.quote(ContainerEngine(engine).program)
    more = _DOCKER if engine == ContainerEngine.DOCKER else f"{_networks(name)} || echo @networks {NO_ANSWER}"
    answers = f"timeout 20 {name} ps --quiet >/dev/null </dev/null && {{ echo answers; {more}; }}"
    images = f"timeout 20 {name} images --quiet --no-trunc </dev/null | sort -u | grep '^sha256:[0-9a-f]*$'"
    running = f"timeout 20 {name} ps --filter label=rbee.worker --format '{{{{.Names}}}}' </dev/null"
    workers = f"{running} | grep '^{CONTAINERS}[A-Za-z0-9._-]*$'"
    asked = f"echo @engine; {answers}; echo @images; {images}; echo @containers; {workers};"
    may_be_asked, otherwise = "true", "true"
    if engine == ContainerEngine.ROOTLESS:
        # An engine whose user has no service manager yet is not asked: it would say nothing of what is to come. The
        # folder of its sockets would not tell: that of an earlier user with this id may be there for some seconds.
        manager = f"user@$(id -u {ports.ENGINE_USER}).service"
        may_be_asked = f'id {ports.ENGINE_USER} >/dev/null 2>&1 && systemctl --quiet is-active "{manager}"'
        # Root's has the same programs beside it, and is asked for those alone.
        otherwise = _networks(program)
    either = f"if {may_be_asked}; then {asked} else {otherwise}; fi"
    return f"command -v {program} >/dev/null 2>&1 && {{ {either}; }}"


def _plain_name() -> str:
    return f"  name=${{path##*/}}; case $name in *{_PLAIN}*) continue;; esac"


def _models(models_dir: str) -> str:
    folder = shlex.quote(models_dir)
    return "\n".join(
        (
            "echo @models",
            f"for path in {folder}/manifests/*.json; do",
            _plain_name(),
            '  [ -f "$path" ] && [ ! -L "$path" ] || continue',
            rf'  printf "manifest\t%s\t%s\n" "${{name%.json}}" "$(head -c {_MOST_JSON} <"$path" | tr -d "\n\t")"',
            "done",
            f"for path in {folder}/blobs/*; do",
            _plain_name(),
            r'  [ -f "$path" ] && printf "blob\t%s\t%s\n" "$name" "$(stat -c %s -- "$path")"',
            "done",
        )
    )
