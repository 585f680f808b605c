"""Let chosen hosts reach what this machine reaches: package registries, for the tests that install online."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.lab.commands import output, succeeds

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
# Under the registry lock: what forwarding was before the first online host of any lab.
FORWARDING_BEFORE = ".ip_forward.before"
RESOLV = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGE_SETTINGS = ("/etc/pip.conf", "~/.config/pip/pip.conf", "~/.config/uv/uv.toml", "/etc/uv/uv.toml")
CARRIED = re.compile(r"(?i)(pip|uv)_.*|(https?|no|all)_proxy|ssl_cert_file|requests_ca_bundle|curl_ca_bundle")


def open_uplink(lab: str, bridge: str, addresses: Sequence[str], root: Path) -> None:
    """Forward and masquerade for exactly these hosts of a lab; the caller holds the registry lock."""
    succeeds(("nft", "delete", "table", "inet", lab))
    output(("nft", nft_rules(lab, bridge, addresses)))
    before = root / FORWARDING_BEFORE
    if not before.exists():
        before.write_text(FORWARDING.read_text())
    FORWARDING.write_text("1")


def close_uplink(lab: str, root: Path, *, last: bool) -> None:
    """Undo what `open_uplink` did; `last` if no other lab has online hosts."""
    if shutil.which("nft") is not None:
        succeeds(("nft", "delete", "table", "inet", lab))
    before = root / FORWARDING_BEFORE
    if last and before.exists():
        FORWARDING.write_text(before.read_text())
        before.unlink()


def nft_rules(lab: str, bridge: str, addresses: Sequence[str]) -> str:
    """Return the lab's table: the rest of its hosts stay offline even while this machine forwards."""
    online = ", ".join(addresses)
    return f"""
table inet {lab} {{
  chain forward {{
    type filter hook forward priority filter - 5;
    iifname "{bridge}" oifname != "{bridge}" ip saddr != {{ {online} }} drop
    tcp flags syn tcp option maxseg size set rt mtu
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr {{ {online} }} oifname != "{bridge}" masquerade
  }}
}}
"""


def prepare_online(root: Path) -> None:
    """Give a host's tree this machine's resolver, authorities and package settings."""
    (root / "etc/resolv.conf").write_text(_resolver())
    if AUTHORITIES.exists():
        shutil.copyfile(AUTHORITIES, root / str(AUTHORITIES).lstrip("/"))
    for name in PACKAGE_SETTINGS:
        _copy_settings(Path(name).expanduser(), root)
    lines = [f'{key}="{value}"' for key, value in carried_environment().items()]
    (root / "etc/environment").write_text("".join(f"{line}\n" for line in lines))
    if proxies := _apt_proxies():
        (root / "etc/apt/apt.conf.d/90lab").write_text(proxies)


def carried_environment() -> dict[str, str]:
    """Return the variables of this process that say how pip, uv and curl reach their servers."""
    return {key: value for key, value in sorted(os.environ.items()) if CARRIED.fullmatch(key)}


def package_folders() -> list[Path]:
    """Return local folders that this machine's package settings point at; a host needs them at the same place."""
    texts = [path.read_text() for name in PACKAGE_SETTINGS if (path := Path(name).expanduser()).is_file()]
    texts += carried_environment().values()
    named = {Path(name) for text in texts for name in re.findall(r"(?:file://|(?<![\w/:.]))(/[\w./+-]+)", text)}
    # The pages of a package index in a folder link to files beside it.
    whole = {path.parent if path.name == "simple" else path for path in named}
    return sorted(path for path in whole if path.is_dir() and not path.is_relative_to("/etc"))


def _resolver() -> str:
    """Skip a resolver on loopback: it answers on this machine only."""
    for file in RESOLV:
        text = file.read_text() if file.is_file() else ""
        if text and not re.search(r"^nameserver\s+(127\.|::1)", text, re.MULTILINE):
            return text
    return RESOLV[0].read_text()


def _copy_settings(source: Path, root: Path) -> None:
    if source.is_file():
        home = Path("~").expanduser()
        inside = Path("root") / source.relative_to(home) if source.is_relative_to(home) else Path(str(source)[1:])
        (root / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / inside)


def _apt_proxies() -> str:
    lines = output(("apt-config", "dump")).splitlines() if shutil.which("apt-config") else []
    return "".join(f"{line}\n" for line in lines if re.match(r"(?i)acquire::.*proxy", line))
