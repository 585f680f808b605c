"""Models that hosts would fetch, fetched on this machine by the code that hives use, into a store in the cache.

It runs as a process of its own, because pyinfra's patches of the standard library leave no room for asyncio. What is
asked comes by standard input, secrets among it; the answer is one line of JSON on standard output.
"""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from rbee_deploy import model_credentials
from rbee_deploy.artefacts import cache_root
from rbee_deploy.commands import SIGN_OF_LIFE
from rbee_deploy.errors import BundleError
from rbee_deploy.secrets import asked_for
from rbee_deploy.site import Host, Model, Site
from rbee_deploy.sources import HeldFile
from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import RbeeError
from rbee_runtime.models.progress import Progress
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.sources.credentials import Credentials
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelFile, ModelSpec, decode

_OF_THE_SOURCE = ("hf_endpoint", "plain_http_hosts", "allow_pickle")
"""Of a host's store, what says how a source is asked; the rest is about the host's own disk."""


class Ask(msgspec.Struct, kw_only=True):
    """A model to fetch: `settings` as of a hive's store, `credentials` the text of each by file name."""

    root: str
    name: str
    source: str
    settings: dict[str, Any]
    credentials: dict[str, str]


class Answer(msgspec.Struct, kw_only=True):
    """The files, whose content lies under `paths` in the same order; or what went wrong."""

    files: tuple[ModelFile, ...] = ()
    paths: tuple[str, ...] = ()
    error: str = ""


def download(site: Site, model: Model, cache: Path | None = None) -> tuple[HeldFile, ...]:
    """Return the files of a model that is fetched as its first host would; raises BundleError."""
    host = next(iter(site.hives_for(model)), site.queen)
    ask = Ask(
        root=str((cache or cache_root()) / "model-store"),
        name=model.name,
        source=model.source,
        settings={key: value for key, value in host.store.settings().items() if key in _OF_THE_SOURCE},
        credentials=_credentials(site, host),
    )
    command = (sys.executable, "-P", "-m", "rbee_deploy.bundle.downloads")
    done = subprocess.run(command, input=msgspec.json.encode(ask), stdout=subprocess.PIPE, check=False)
    try:
        answer = decode(done.stdout, Answer)
    except msgspec.DecodeError as error:
        raise BundleError(
            f"model {model.name} was not fetched (exit status {done.returncode}); run the same command again"
        ) from error
    if answer.error:
        raise BundleError(f"{answer.error}; or write the model as file:/absolute/path")
    return tuple(HeldFile(file, Path(path)) for file, path in zip(answer.files, answer.paths, strict=True))


def _credentials(site: Site, host: Host) -> dict[str, str]:
    found = {}
    for name, source in site.model_credentials(host).items():
        with asked_for(site.credential_field(host, name)):
            found[name] = model_credentials.read(name, source).reveal()
    return found


async def _pulled(ask: Ask) -> Answer:
    root = Path(ask.root)
    root.parent.mkdir(parents=True, exist_ok=True)
    settings = StoreSettings.model_validate({**ask.settings, "spare": 0})
    store = ModelStore(root, settings)
    puller = Puller(store, credentials=Credentials.parse(ask.credentials))
    progress = Progress(ask.name, time.monotonic)
    telling = asyncio.create_task(_tell(progress))
    try:
        report = await puller.pull(ModelSpec(name=ask.name, source=ask.source), progress=progress)
    finally:
        telling.cancel()
    return Answer(files=report.files, paths=tuple(str(store.path_of(file)) for file in report.files))


async def _tell(progress: Progress) -> None:
    while True:
        await asyncio.sleep(SIGN_OF_LIFE)
        done, total = (size / (1 << 30) for size in (progress.done, progress.total))
        print(f"fetch {progress.name}: {done:.1f} of {total:.1f} GiB", file=sys.stderr, flush=True)  # noqa: T201


def answered(data: bytes) -> bytes:
    """Return the answer to what came by standard input."""
    try:
        answer = asyncio.run(_pulled(decode(data, Ask)))
    except (RbeeError, OSError) as error:
        answer = Answer(error=str(error))
    return msgspec.json.encode(answer)


def main() -> int:
    """Answer one question and return the exit status."""
    try:
        sys.stdout.buffer.write(answered(sys.stdin.buffer.read()))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
