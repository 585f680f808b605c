"""Find what speaks OpenAI's API on this host: run as root there, by any Python 3, as text on standard input.

It reads /proc, asks `GET /v1/models` of what listens here, prints one line of JSON, and changes nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("llama-server", "ollama", "vllm")
PORTS = (8000, 8080, 11434)
"""Asked as well, whoever listens there: a container's port belongs to the container tool."""

SECONDS = 2.0
WHOLE_SECONDS = 60
MOST_PORTS, MOST_BYTES, MOST_MODELS = 32, 1 << 20, 256
_LISTEN = "0A"
_OURS = re.compile(r"/rbee-[^/]*\.(service|scope|socket)")


def listeners(text: str) -> list[tuple[str, int, str]]:
    """Return address, port and inode of each listening socket in the text of /proc/net/tcp or tcp6."""
    found = []
    for row in (line.split() for line in text.splitlines()[1:]):
        if len(row) > 9 and row[3] == _LISTEN:
            digits, port = row[1].split(":")
            found.append((address(digits), int(port, 16), row[9]))
    return found


def address(digits: str) -> str:
    """Return an address as people write it; the kernel prints it in words of this machine's order."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))


def kind(words: list[str], comm: str) -> str:
    """Return which server a process is by its command line, "" if none that is known."""
    names = [word.rpartition("/")[2] for word in words]
    if comm in NAMES or (names and names[0] in NAMES):
        return comm if comm in NAMES else names[0]
    if not names or not names[0].startswith("python"):
        return ""
    # The program of an interpreter is what follows -m, or else its first word that is no option.
    after = names.index("-m") + 1 if "-m" in names else 1
    started = next((name for name in names[after:] if not name.startswith("-")), "")
    return "vllm" if started == "vllm" or started.startswith("vllm.entrypoints.") else ""


def owners(proc: Path) -> dict[str, set[Path]]:
    """Return the processes that hold each socket, by inode."""
    held: dict[str, set[Path]] = {}
    for process in (path for path in proc.iterdir() if path.name.isdigit()):
        for link in _links(process / "fd"):
            if link.startswith("socket:["):
                held.setdefault(link[8:-1], set()).add(process)
    return held


def _links(folder: Path) -> list[str]:
    found = []
    try:
        for path in folder.iterdir():
            # A descriptor may be closed while its neighbours are read.
            with contextlib.suppress(FileNotFoundError):
                found.append(str(path.readlink()))
    except OSError:
        return found
    return found


def read(path: Path) -> str:
    """Return a file's text, "" for one that went away."""
    try:
        with path.open("rb") as file:
            return file.read(1 << 20).decode("utf-8", "replace")
    except OSError:
        return ""


def candidates(proc: Path) -> dict[int, dict[str, Any]]:
    """Return kind and addresses of what may be a server, by port; rbee's own are none."""
    sockets = [row for name in ("tcp", "tcp6") for row in listeners(read(proc / "net" / name))]
    held = owners(proc)
    found: dict[int, dict[str, Any]] = {}
    for where, port, inode in sockets:
        processes = held.get(inode, set())
        if any(_OURS.search(read(process / "cgroup")) for process in processes):
            continue
        kinds = [kind(read(each / "cmdline").split("\0"), read(each / "comm").strip()) for each in processes]
        known = next((each for each in kinds if each), "")
        if known or port in PORTS:
            entry = found.setdefault(port, {"server": known, "addresses": []})
            entry["server"] = entry["server"] or known
            entry["addresses"].append(where)
    return dict(sorted(found.items())[:MOST_PORTS])


def ask(where: str, port: int) -> tuple[int, bytes] | None:
    """Return the status of `GET /v1/models` and the body's bytes, or None if nothing answers."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(where, where)  # noqa: S104 - compared, not bound to
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    until = time.monotonic() + SECONDS
    try:
        connection.request("GET", "/v1/models", headers={"accept": "application/json"})
        answer = connection.getresponse()
        body = b""
        while time.monotonic() < until and len(body) <= MOST_BYTES:
            piece = answer.read1(65536)
            if not piece:
                break
            body += piece
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return answer.status, body


def models(body: bytes) -> list[tuple[str, str]] | None:
    """Return name and owner of each model in a list of OpenAI's form, or None if it is none."""
    try:
        rows = json.loads(body.decode("utf-8"))["data"] or []
        return [(row["id"] + "", str(row.get("owned_by") or "")) for row in rows][:MOST_MODELS]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def search(proc: Path = Path("/proc")) -> list[dict[str, Any]]:
    """Return what answers, as plain data."""
    found = []
    for port, entry in candidates(proc).items():
        answer = next((said for said in (ask(where, port) for where in entry["addresses"]) if said), None)
        if answer is None:
            continue
        listed = models(answer[1]) if answer[0] == 200 else None
        # One that is known by its name may refuse to say more without its key, or while it loads.
        if listed is not None or (entry["server"] and answer[0] in (401, 403, 503)):
            found.append(dict(entry, port=port, status=answer[0], models=listed or []))
    return found


if __name__ == "__main__":
    signal.alarm(WHOLE_SECONDS)
    sys.stdout.write(json.dumps(search()) + "\n")
