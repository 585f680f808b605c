"""What keeps workers in containers in, as the state fact asks and reads it; only where the inventory has containers."""

import shlex
from typing import Any

from rbee_deploy.activator.worker_rules import is_let_through
from rbee_deploy.modes import ContainerEngine
from rbee_runtime import ports
from rbee_runtime.worker_bridge import MAC_PREFIX, TABLES

_PLAIN = "A-Za-z0-9 ._:,()/'-"

# Tried without being put in force: a kernel may have nftables and lack what one of the two needs.
_TRIED = f"""
table inet rbee-tried {{ chain a {{ type filter hook input priority 0; ct state established accept; }}; }}
table bridge rbee-tried {{
chain a {{ type filter hook forward priority 0; ether saddr & ff:ff:ff:00:00:00 == {MAC_PREFIX}:00:00:00 drop; }}; }}
"""


def _listed(nft: str) -> str:
    return "; ".join(f"{nft} list table {table}" for table in TABLES)


# In a network namespace of its own, which is gone at once: the same nft and kernel say there what the file amounts to.
_MEANT = f"nft -f {shlex.quote(str(ports.NETWORK_RULES))} && {{ {_listed('nft')}; }}"

CHANGED = "changed=yes"
MARKED = "marked=yes"
SHUT = "shut=yes"


def script(engine: str | None) -> str:
    """Return the part of the script that asks."""
    if engine is None:
        return ""
    wanted = " ".join(f"-e {shlex.quote(f'table {table}')}" for table in TABLES)
    tried = f"said=$(printf %s {shlex.quote(_TRIED)} | nft -c -f - 2>&1)"
    broken = f'echo "broken=$(printf %s "$said" | head -n 1 | tr -dc "{_PLAIN}")"'
    # Without root they are in a network of their own, in which somebody is as long as they are in force.
    inside = f'nsenter --net="/proc/$(head -n 1 {ports.NETWORK_HOLDER})/ns/net" '
    nft = f"{inside if engine == ContainerEngine.ROOTLESS else ''}nft"
    meant = f"meant=$(unshare -n sh -c {shlex.quote(_MEANT)} 2>/dev/null)"
    compared = f'{meant} && [ "$meant" != "$({{ {_listed(nft)}; }} 2>/dev/null)" ] && echo {CHANGED}'
    # A guard of before goes by something else.
    asked_for = f"grep -qsF '\"{ports.NETWORK_MARK}\"' {ports.ETC}/guard.json"
    marked = f"{{ [ -e {ports.NETWORK_MARK} ] || ! {asked_for}; }} && echo {MARKED}"
    # One command may wait for others' for five seconds.
    let_through = f"timeout 20 sh -c {shlex.quote(is_let_through())}"
    shut = f"{let_through} || [ $? = 124 ] || echo {SHUT};" if engine == ContainerEngine.PODMAN else ""
    listed = f"{nft} list tables | grep -Fx {wanted}"
    asked = f"echo tool=yes; {marked}; {listed}; {{ {tried} || {broken}; }}; {compared}; {shut}"
    return f"echo @worker_rules\ncommand -v nft >/dev/null 2>&1 && {{ {asked} }}"


def worker_rules(lines: list[str]) -> dict[str, Any]:
    """Return whether nft is there, why it does not work, which of our tables are in force, and if with other rules.

    Other than the file on the host has, that is; not where nothing can say what those would be. `marked` is whether the
    guard takes them to be in force, `shut` whether a Docker beside Podman forwards nothing to workers.
    """
    broken = (line.partition("=")[2] for line in lines if line.startswith("broken="))
    return {
        "worker_rules": {
            "tool": "tool=yes" in lines,
            "broken": next(broken, ""),
            "tables": [table for table in TABLES if f"table {table}" in lines],
            "changed": CHANGED in lines,
            "marked": MARKED in lines,
            "shut": SHUT in lines,
        }
    }
