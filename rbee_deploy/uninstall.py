"""The script that removes rbee from a host; pure. Models stay unless they are asked for: they took hours to come."""

import shlex

import yaml

from rbee_deploy import accounts, modes
from rbee_deploy.activator import engines, places, worker_rules
from rbee_deploy.activator.engines import ROOTLESS, in_shell, runtime_dir
from rbee_deploy.activator.images import DIGEST, NAMES, OURS
from rbee_deploy.activator.rootless.account import LINGER, RESOLVER
from rbee_deploy.site import Host
from rbee_runtime import ports
from rbee_runtime.config import ContainerSettings
from rbee_runtime.worker_bridge import TABLES

ROLES = ("queen", "hive")
STORE_PARTS = (
    *("blobs", "manifests", "facts", "views", "partial", "quarantine", "chunks", "locks", "uses"),
    *("pins.json", "pins-inventory.json", "incoming"),
)
"""What hive and deployer put into models_dir; the folder may hold other things of the operator's."""

_REMOVALS = 5
"""How often a container is removed: one that its hive was about to remove refuses the first time."""

USER_BUSY = 8
"""How `userdel` ends where a process has the user's id."""


def script(host: Host, *, models: bool) -> str:
    """Return it; it goes on past what is not there, and ends with what is still there."""
    users = _users(host) if models else ()
    ends = (*_units(), *_containers(host), *_rootless(), *_all_ended())
    parts = (*ends, _worker_rules(), *_files(host, models=models), *users)
    return "\n".join((*_answering(), _firewall(), *_account(), *parts, _left(host)))


def only_of(fleet: str, host: Host) -> str:
    """Return the lines that end a script on a host that is by now another fleet's, or another host of this one."""
    wanted = [yaml.safe_dump({key: value}).strip() for key, value in (("fleet", fleet), ("name", host.name))]
    mine = " && ".join(f'grep -qxF -- {shlex.quote(line)} "$file"' for line in wanted)
    said = shlex.quote(f"rbee here is not that of host {host.name} of fleet {fleet} any more; nothing was removed")
    files = shlex.join(str(ports.ETC / f"{role}.yaml") for role in ROLES)
    return f'for file in {files}; do [ ! -f "$file" ] || {{ {mine}; }} || {{ echo {said} >&2; exit 1; }}; done'


def _firewall() -> str:
    """Return the lines that take our rules out of the firewall, while the program that knows them is there."""
    said = shlex.quote("the rules of rbee are still in the firewall of this host; put that right and purge it again")
    remove = shlex.join((f"{ports.CURRENT}/bin/python", "-I", "-m", "rbee_deploy.activator", "firewall", "remove"))
    off = f"systemctl disable --now -- {ports.FIREWALL_UNIT} 2>/dev/null"
    return f"[ ! -f {places.FIREWALL_HELD} ] || {{ {off}; {remove} || {{ echo {said} >&2; exit 1; }}; }}"


def _units() -> tuple[str, ...]:
    files = [modes.unit_path(ports.FIREWALL_UNIT), *modes.every_file()]
    workers = ports.WORKER_TEMPLATE.replace("@.", "@*.")
    return (
        # Hive before workers, or it would start them again; the whole target stops in that order.
        # Each by itself: one that is not there, or that Quadlet generates, keeps none of the others.
        f"for unit in {shlex.join(modes.every_unit())}; do systemctl disable -- $unit 2>/dev/null; done",
        f"systemctl stop -- {shlex.join(reversed(modes.every_unit()))} 2>/dev/null",
        f"systemctl stop -- {shlex.quote(workers)} 2>/dev/null",
        # What a restarted queen left to finish its streams is not stopped with it. A container by its engine first: one
        # whose watcher was killed is refused to be removed.
        *_leaving(),
        f"systemctl kill --kill-whom=all --signal=KILL -- {ports.QUEEN_UNIT} 2>/dev/null",
        shlex.join(("rm", "-f", "--", *files, modes.POLKIT_RULES)),
        f"rmdir -- {modes.UNITS_DIR}/{ports.QUEEN_UNIT}.d 2>/dev/null",
        "systemctl daemon-reload; systemctl reset-failed -- 'rbee*' 2>/dev/null",
    )


_ENGINES = shlex.join(engines.ROOT_S)


def _leaving() -> tuple[str, ...]:
    """Return the lines that remove containers of queens that still finish their streams."""
    # Engines that were used alone, which `_answering` has asked.
    left = "$engine ps --all --quiet --filter name='^rbee-queen-leaving-'"
    return (
        f"for engine in {_ENGINES}; do",
        """  case $engines in *'"'"$engine"'"'*) ;; *) continue;; esac""",
        "  command -v $engine >/dev/null 2>&1 || continue",
        f'  ids=$({left}); [ -z "$ids" ] || $engine rm --force --volumes $ids >/dev/null',
        "done",
    )


def _answering() -> tuple[str, ...]:
    """Return the lines that end the script, before it has done anything, where an engine that was used is away.

    A rootless one need not answer: all that it has is its user's, and goes with that.
    """
    named = r"grep -rhos '\"engine\": *\"[a-z-]*\"'"
    # Whose Podman the guard asks, its settings say apart.
    guard = f"grep -qs engine_user {ports.ETC}/guard.json || {named} {ports.ETC}/guard.json"
    return (
        f"engines=$({{ {named} {places.GENERATIONS}; {guard}; }} | sort -u)",
        f"for engine in {_ENGINES}; do",
        "  command -v $engine >/dev/null 2>&1 || continue",
        # In quotes: what generations have had of a rootless one is none of root's.
        """  case $engines in *'"'"$engine"'"'*) ;; *) continue;; esac""",
        f"""  $engine ps --quiet >/dev/null 2>&1 || {_AWAY}""",
        "done",
    )


_SAID = shlex.quote("does not answer, and has containers or images of rbee; start it, and purge the host again")
_AWAY = f'{{ echo "$engine" {_SAID} >&2; exit 1; }}'


def _containers(host: Host) -> tuple[str, ...]:
    """Return the lines that remove containers, their network, secrets and images, of every engine that is there.

    Which engine earlier deploys used does not matter then, nor which of its images they brought.
    """
    known = (places.GENERATIONS, places.BLOBS, places.IMAGES, ports.ETC / "guard.json")
    named = rf"grep -rhos 'sha256:[0-9a-f]\{{64\}}' {shlex.join(map(str, known))}"
    mine = f"--filter label=rbee.hive={shlex.quote(host.name)}"
    ours = " ".join(f"--filter name='^rbee-{role}(-leaving-[0-9a-f]*)?$'" for role in ROLES)
    return (
        f"images=$({named} | sort -u); left=",
        f'of_rbee() {{ $engine ps --all "$@" {mine} && $engine ps --all "$@" {ours}; }}',
        f"for engine in {_ENGINES}; do",
        "  command -v $engine >/dev/null 2>&1 || continue",
        # Its socket would wake it, and once up it forwards for no other engine of the host.
        "  [ $engine != docker ] || pgrep -x dockerd >/dev/null ||",
        """    case $engines in *'"docker"'*) ;; *) continue;; esac""",
        "  $engine ps --quiet >/dev/null 2>&1 || continue",
        f'  tries=0; while ids=$(of_rbee --quiet); [ -n "$ids" ] && [ $tries -lt {_REMOVALS} ]; do',
        "    [ $tries -eq 0 ] || sleep 1",
        "    tries=$((tries + 1)); $engine rm --force --volumes $ids >/dev/null",
        "  done",
        f"  names=$(of_rbee --format '{{{{.Names}}}}') || {_AWAY}",
        '  for name in $names; do left="$left, container $name of $engine"; done',
        f"  $engine network rm {ContainerSettings().network} >/dev/null 2>&1",
        "  for id in $images; do",
        '    $engine image rm "$id" >/dev/null 2>&1 && continue',
        f"    for name in $($engine image inspect --format {shlex.quote(NAMES)} $id 2>/dev/null); do",
        f'      case $name in {OURS}*|*{DIGEST}*) $engine image rm "$name" >/dev/null 2>&1;; esac',
        "    done",
        "  done",
        "done",
        _secrets(),
    )


def _all_ended() -> tuple[str, ...]:
    """Return the lines that end the script where something of ours runs on: what it knows of that is still there."""
    # Of units that are stopped no other word is left. Below slices alone: a host inside has units of the same names.
    unit = r"rbee-(worker@[^/]*|queen|hive)[.]service"
    groups = f":/([^/]*[.]slice/)*{unit}(/|$)"
    said = shlex.quote("could not be ended: %s; restart the host, and purge it again") + r"'\n'"
    return (
        # From processes: one that a driver holds is in the group of its unit although systemd has given that up.
        """running() { printf "%s\\n" /proc/[0-9]*/cgroup | xargs -r grep -hsoE "$1" | sed -E 's,/$,,' |""",
        f"  grep -oE '{unit}$' | sort -u; }}",
        f"tries=0; while units=$(running '{groups}'); [ -n \"$units\" ] && [ $tries -lt 100 ]; do",
        "  tries=$((tries + 1)); sleep 0.1",
        "done",
        'for unit in $units; do left="$left, $unit"; done',
        f'[ -z "$left" ] || {{ printf {said} "${{left#, }}" >&2; exit 1; }}',
    )


def _rootless() -> tuple[str, ...]:
    """Return the lines that remove Podman's own user, with all that it has: none of it is anybody else's."""
    user, said = ports.ENGINE_USER, shlex.quote(f"processes of {ports.ENGINE_USER} do not end")
    podman = in_shell(ROOTLESS)
    return (
        *_engine_s(),
        f"if id {user} >/dev/null 2>&1; then",
        f"  uid=$(id -u {user})",
        # First processes alone: to end all of a container that sees the host's takes a control group of its own.
        f"  [ ! -d {runtime_dir('$uid')} ] || {{",
        f"    {podman} kill --all --signal=KILL; {podman} rm --force --all --time=0; }} >/dev/null 2>&1",
        # The folder of its sockets by itself: who is given that id next would find it there for some seconds.
        f"  rm -f {LINGER / user}; systemctl stop -- user@$uid.service user-runtime-dir@$uid.service 2>/dev/null",
        # Those in containers are theirs to whom the ids were lent, and userdel leaves a user who has one.
        '  tries=0; while pids=$(engine_s "$uid"); [ -n "$pids" ]; do kill -KILL $pids 2>/dev/null',
        f"    tries=$((tries + 1)); [ $tries -lt 100 ] || {{ echo {said} >&2; exit 1; }}; sleep 0.1",
        "  done",
        # It takes back what was lent, under the locks of those files.
        f"  remove_user {user} || exit 1; rm -rf {ports.ENGINE_STATE}",
        "fi",
        f"[ ! -f {places.RESOLVER_MADE} ] || [ -L {RESOLVER} ] || [ -s {RESOLVER} ] || rm -f {RESOLVER}",
    )


def _engine_s() -> tuple[str, ...]:
    """Return the lines of a function of the shell that prints the processes of the rootless engine, by its user's id.

    Not those that have its id, or one that was lent to it: a container of anybody's may run with any number.
    """
    units = "|".join(unit.replace(".", "[.]") for unit in (ports.PODMAN_UNIT, ports.NETWORK_UNIT))
    # From the root on: a host in a container of this one has groups of the same names, and users of these ids.
    groups = f":/(user[.]slice/user-$1[.]slice|system[.]slice/({units}))(/|$)"
    return (
        "engine_s() { {",
        # A namespace whose root is the user, with other ids beside it: nobody else is lent those. Where users have no
        # bus, control groups say nothing: the first one, which keeps it, is in the session that it was begun in.
        '  printf "%s\\n" /proc/[0-9]*/uid_map | xargs -r grep -lsE "^ *0 +$1 +1$" |',
        '    xargs -r grep -cHs "" | grep -v ":1$"',
        f'  printf "%s\\n" /proc/[0-9]*/cgroup | xargs -r grep -lsE "{groups}"; }} |',
        r"  sed -E 's,.*/([0-9]+)/[^/]*$,\1,' | sort -un; }",
    )


def _account() -> tuple[str, ...]:
    """Return the lines of a function of the shell that removes a user, and tells of processes that are nobody's then.

    They are others' own: a service or container that was given that very number. None is ended.
    """
    return (
        "remove_user() {",
        '  id "$1" >/dev/null 2>&1 || return 0',
        '  number=$(id -u "$1"); others=$(pgrep -d " " -u "$number"); why=$(userdel -- "$1" 2>&1); code=$?',
        f'  [ $code -ne {USER_BUSY} ] || {{ why=$(userdel --force -- "$1" 2>&1); code=$?; }}',
        '  [ $code -eq 0 ] || { echo "user $1 could not be removed: $why" >&2; return 1; }',
        '  [ -z "$others" ] || echo "user $1 is removed; processes of others with its id $number run on: $others"',
        "}",
    )


def _worker_rules() -> str:
    """Return the line that removes what workers may reach; no worker is left by then."""
    deletes = "; ".join(f"nft delete table {table} 2>/dev/null" for table in TABLES)
    return f"command -v nft >/dev/null 2>&1 && {{ {deletes}; }}\n{worker_rules.shut_again()}"


def _secrets() -> str:
    """Return the line that removes what Podman was handed."""
    known = "podman secret ls --format '{{.Name}}' 2>/dev/null | grep -E '^rbee-(queen|hive)-'"
    return f"command -v podman >/dev/null 2>&1 && {known} | xargs -r podman secret rm >/dev/null"


def _files(host: Host, *, models: bool) -> tuple[str, ...]:
    runs = (ports.QUEEN_RUN, ports.HIVE_RUN, ports.GUARD_RUN, ports.UNIT_RUN)
    state = (ports.QUEEN_STATE, ports.HIVE_STATE, places.HOME, *runs)
    folders = (ports.PREFIX, ports.ETC, *state)
    store = [f"{host.models_dir}/{part}" for part in STORE_PARTS] if models else []
    return (
        shlex.join(("rm", "-rf", "--", *map(str, folders), *store)),
        f"rmdir -- {shlex.quote(host.models_dir)} {ports.STATE} 2>/dev/null",
        shlex.join(("rm", "-rf", "--", str(places.RUN))),
    )


def _users(host: Host) -> tuple[str, ...]:
    """Return the lines that remove users and groups: they stay as long as files of theirs do."""
    users = [ports.QUEEN_USER, ports.HIVE_USER, ports.WORKER_USER]
    groups = [group.name for group in accounts.groups(host)] or [ports.MODELS_GROUP]
    return (
        # A note to whoever purges and no failure: all else is gone by then.
        *(f"remove_user {user} 2>&1" for user in users),
        *(f"groupdel -- {group} 2>/dev/null" for group in groups),
    )


def _left(host: Host) -> str:
    paths = shlex.join((str(ports.PREFIX), str(ports.ETC), str(ports.QUEEN_STATE), str(ports.HIVE_STATE)))
    kept = shlex.quote(host.models_dir)
    return (
        f'for path in {paths}; do [ ! -e "$path" ] || {{ echo "$path could not be removed" >&2; exit 1; }}; done\n'
        f'[ ! -d {kept} ] || echo "models are kept in {host.models_dir}"; exit 0'
    )
