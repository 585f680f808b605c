"""What keeps workers in containers in, as the state fact asks and reads it; only where the inventory has containers."""

import shlex
from typing import Any

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


def script(engine: str | None) -> str:
    """Return the part of the script that asks."""
    if engine is None:
        return ""
    wanted = " ".join(f"-e {shlex.quote(f'table {table}')}" for table in TABLES)
    tried = f"said=$(printf %s {shlex.quote(_TRIED)} | nft -c -f - 2>&1)"
    broken = f'echo "broken=$(printf %s "$said" | head -n 1 | tr -dc "{_PLAIN}")"'
    # Without root they are in a network of their own, in which somebody is as long as they are in force.
    held = f'nsenter --net="/proc/$(head -n 1 {ports.NETWORK_HOLDER})/ns/net" nft'
    listed = f"{held if engine == ContainerEngine.ROOTLESS else 'nft'} list tables"
    asked = f"echo tool=yes; {listed} | grep -Fx {wanted}; {tried} || {broken};"
    return f"echo @worker_rules\ncommand -v nft >/dev/null 2>&1 && {{ {asked} }}"


def worker_rules(lines: list[str]) -> dict[str, Any]:
    """Return whether nft is there, why it does not work, and which of our tables are in force."""
    broken = (line.partition("=")[2] for line in lines if line.startswith("broken="))
    return {
        "worker_rules": {
            "tool": "tool=yes" in lines,
            "broken": next(broken, ""),
            "tables": [table for table in TABLES if f"table {table}" in lines],
        }
    }
