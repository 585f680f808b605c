"""The host's firewall, as the state fact asks and reads it; only where the inventory asks for one."""

import shlex
from typing import Any

from rbee_deploy.activator import places
from rbee_deploy.activator.firewall.rules import Kind
from rbee_runtime import ports

_PLAIN = "A-Za-z0-9 ._:,()/'-"

# `also` are other firewalls that are in force beside ours: a packet has to pass all of them.
_ASK = {
    Kind.NFTABLES: f"""\
command -v nft >/dev/null 2>&1 && echo tool=yes
said=$(nft list tables 2>&1 >/dev/null) || echo "broken=$(printf %s "$said" | head -n 1 | tr -dc "{_PLAIN}")"
grep -qs "^ENABLED=yes" /etc/ufw/ufw.conf && echo also=ufw
systemctl -q is-active firewalld && echo also=firewalld""",
    Kind.UFW: """\
command -v ufw >/dev/null 2>&1 && echo tool=yes
ufw status </dev/null | grep -qx "Status: active" && echo active=yes""",
    Kind.FIREWALLD: """\
command -v firewall-cmd >/dev/null 2>&1 && echo tool=yes
firewall-cmd --state >/dev/null 2>&1 && echo active=yes""",
}


def script(kind: str | None) -> str:
    """Return the part of the script that asks."""
    if kind is None:
        return ""
    python, file = (shlex.quote(str(path)) for path in (ports.CURRENT / "bin" / "python", places.FIREWALL))
    check = f'{python} -I -m rbee_deploy.activator firewall check </dev/null | sed "s/^/differs=/"'
    return f"echo @firewall\n{_ASK[Kind(kind)]}\n[ -x {python} ] && [ -f {file} ] && {check}"


def firewall(lines: list[str]) -> dict[str, Any]:
    """Return whether its tool is there and active, why it does not work, what else filters, and what differs."""
    rows = [(key, value) for key, mark, value in (line.partition("=") for line in lines) if mark]
    return {
        "firewall": {
            "tool": ("tool", "yes") in rows,
            "active": ("active", "yes") in rows,
            "broken": next((value for key, value in rows if key == "broken"), ""),
            "also": [value for key, value in rows if key == "also"],
            "differs": [value for key, value in rows if key == "differs"],
        }
    }
