"""How fast a model comes in, against `curl` and `sha256sum` of the same file to the same disk.

`python -m benchmarks.model_pull [--mib N] [--folder DIR]` prints a table and one JSON line. Both sides download over
loopback HTTP from the same server and hash all of it; ours also resumes, checks free space and waits for the disk
(fsync), so the table shows `curl` with `sync` of the file as well.
"""

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import ending
from rbee_runtime.config import StoreSettings
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelSpec

ROUNDS = 3
ASKS = 8
MIB = 1024 * 1024
FREE_BYTES = 8 * 1024 * MIB
MOST_MIB = 2048
"""What `FREE_BYTES` has room for: the file, curl's copy of it, ours, and what is on its way to the disk."""


class _Handler(BaseHTTPRequestHandler):
    """Sends one file by sendfile, and counts how often all of it was asked for."""

    protocol_version = "HTTP/1.1"
    file: Path

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        if self.path == "/count":
            self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{self.server.asked:4}".encode())  # type: ignore[attr-defined]  # set in `_serve`
            return
        self.server.asked += 1  # type: ignore[attr-defined]  # as above
        self._head()
        self.wfile.flush()
        with self.file.open("rb") as file:
            self.connection.sendfile(file)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: a line per request would be measured too."""

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(self.file.stat().st_size))
        self.send_header("ETag", '"one"')
        self.end_headers()


def _serve(file: Path, listener: socket.socket) -> None:
    _Handler.file = file
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.asked = 0  # type: ignore[attr-defined]  # counted by the handler
    server.serve_forever()


@contextmanager
def served(file: Path) -> Iterator[str]:
    """Serve `file` from another process; gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(file, listener), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/model.gguf"
    finally:
        process.terminate()
        process.join()
        listener.close()


def write_random(path: Path, mib: int) -> str:
    """Write incompressible content and return its sha256."""
    digest, state = hashlib.sha256(), hashlib.shake_128(b"rbee").digest(MIB)
    with path.open("wb") as file:
        for number in range(mib):
            block = number.to_bytes(8, "little") + state[8:]
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def curl_seconds(url: str, target: Path, *, sync: bool) -> float:
    """Download and hash as a person would."""
    started = time.perf_counter()
    subprocess.run(["curl", "-sS", "--fail", "-o", target, url], check=True)
    subprocess.run(["sha256sum", target], check=True, capture_output=True)
    if sync:
        subprocess.run(["sync", target], check=True)
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def pull_seconds(url: str, root: Path, sha256: str, asks: int) -> tuple[float, float]:
    """Pull in a process of its own, `asks` times at once; return seconds and its peak memory in MiB."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_pull, args=(url, root, sha256, asks, sending))
    process.start()
    # While this process holds the end that sends, one that died without a word would be waited for for ever.
    sending.close()
    try:
        seconds, rss = receiving.recv()
    finally:
        process.join()
        shutil.rmtree(root, ignore_errors=True)
    return seconds, rss


def _pull(url: str, root: Path, sha256: str, asks: int, sending: Connection) -> None:
    import uvloop  # noqa: PLC0415 - only the process that pulls needs it

    settings = StoreSettings(plain_http_hosts=("127.0.0.1",), spare=0)
    puller = Puller(ModelStore(root, settings), inspect=lambda files, allow_pickle: None)  # noqa: ARG005 - random bytes have no header
    spec = ModelSpec(name="bench", source=f"{url}#sha256={sha256}")

    async def pull() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(puller.pull(spec) for _ in range(asks)))
        return time.perf_counter() - started

    seconds = uvloop.run(pull())
    sending.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def downloads(url: str) -> int:
    """Return how often the file was downloaded so far."""
    port = int(url.split(":")[2].split("/", maxsplit=1)[0])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /count HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return int(connection.makefile("rb").read().split(b"\r\n\r\n")[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if there is not enough room for it."""
    options = read_options(argv)
    try:
        free = shutil.disk_usage(options.folder).free
        room = tempfile.TemporaryDirectory(dir=options.folder, prefix="rbee-bench-")
    except OSError as error:
        sys.stderr.write(f"cannot measure in {options.folder}: {error.strerror}; choose another --folder\n")
        return 1
    with room as folder:
        if free < FREE_BYTES:
            sys.stderr.write(f"{options.folder} has {free / MIB:.0f} MiB free; {FREE_BYTES / MIB:.0f} are needed\n")
            return 1
        _measure(Path(folder), options.mib)
    return 0


def _measure(folder: Path, mib: int) -> None:
    file = folder / "served"
    sha256 = write_random(file, mib)
    curls, synced, pulls, peak = [], [], [], 0.0
    with served(file) as url:
        curl_seconds(url, folder / "warm", sync=True)
        for _ in range(ROUNDS):
            curls.append(curl_seconds(url, folder / "curl", sync=False))
            synced.append(curl_seconds(url, folder / "curl", sync=True))
            seconds, rss = pull_seconds(url, folder / "store", sha256, 1)
            pulls.append(seconds)
            peak = max(peak, rss)
        before = downloads(url)
        seconds, rss = pull_seconds(url, folder / "store", sha256, ASKS)
        count = downloads(url) - before
    _print("curl + sha256sum", curls, mib)
    _print("curl + sha256sum + sync", synced, mib)
    _print("rbee", pulls, mib)
    _print(f"rbee, {ASKS} asks, {count} download", [seconds], mib)
    result = {
        "bench": "model-pull",
        "ratio_curl": round(statistics.median(curls) / statistics.median(pulls), 3),
        "ratio_curl_sync": round(statistics.median(synced) / statistics.median(pulls), 3),
        "downloads": count,
        "rss_mib": round(max(peak, rss), 1),
    }
    sys.stdout.write(json.dumps(result, separators=(",", ":")) + "\n")


def _print(what: str, seconds: list[float], mib: int) -> None:
    each = " ".join(f"{value:6.2f}" for value in seconds)
    sys.stdout.write(f"{what:28} {mib / statistics.median(seconds):7.0f} MiB/s   s: {each}\n")


def read_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what is to be measured; a size that cannot be is one sentence and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_pull", description="Measure a download.")
    parser.add_argument("--mib", type=int, default=2048, help=f"size of the file, 1 to {MOST_MIB} (default: 2048)")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on the disk to measure")
    options = parser.parse_args(argv)
    if not 1 <= options.mib <= MOST_MIB:
        parser.error(f"--mib {options.mib} is not between 1 and {MOST_MIB}")
    return options


if __name__ == "__main__":
    ending.quietly(lambda: sys.exit(main()), "bench-pull")
