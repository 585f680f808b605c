"""Brings models into a host's store before its hive wants them: the hive's own fetching, in a process apart.

`python -m rbee_runtime.hive.ahead`: settings and secrets are those of the hive to be, in `$CREDENTIALS_DIRECTORY`
(`hive.yaml` beside what sources ask for); the models come as a JSON array of ModelSpec on standard input. Two processes
on one store are no new case: hives share stores. What a worker reads, and all that is there, stays.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rbee_runtime.config import HiveConfig, load
from rbee_runtime.errors import ModelStoreError, RbeeError
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.sources import TransientError
from rbee_runtime.models.sources.credentials import Credentials
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelSpec, decode

CONFIG = "hive.yaml"
TRIES = 5
FIRST_DELAY = 2.0
"""Seconds before the second try, doubled each time: a dropped connection must not cost the whole deploy."""

BEAT_SECONDS = 60.0


async def fetch(store: ModelStore, puller: Puller, models: Sequence[ModelSpec]) -> list[str]:
    """Bring each model, one after the other, and return a sentence for each that did not come.

    Leases hold them for an hour from the end, in which their hive should come to want them.
    """
    names = tuple(spec.name for spec in models)
    beat, failures = asyncio.create_task(_beat(store, names)), []
    try:
        kept = (*names, *(report.name for report in await store.layout.threads.looks.run(store.reports)))
        for spec in models:
            try:
                await _patiently(puller, spec, kept)
            except RbeeError as error:
                failures.append(f"cannot be fetched ahead: {error}")
    finally:
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)
    return failures


async def _beat(store: ModelStore, names: Sequence[str]) -> None:
    """Renew what is held: a download may take longer than a lease."""
    while True:
        with contextlib.suppress(ModelStoreError):
            await store.layout.threads.looks.run(store.leases.keep, names, names)
        await asyncio.sleep(BEAT_SECONDS)


async def _patiently(puller: Puller, spec: ModelSpec, kept: Sequence[str]) -> None:
    for attempt in range(TRIES):
        try:
            await puller.pull(spec, keep=kept)
        except TransientError:
            if attempt + 1 == TRIES:
                raise
            await asyncio.sleep(FIRST_DELAY * 2**attempt)
        else:
            return


def main() -> int:
    """Fetch what standard input names; returns 1 and says why if something did not come."""
    folder = Path(os.environ["CREDENTIALS_DIRECTORY"])
    try:
        config = load(folder / CONFIG, HiveConfig)
        store = ModelStore(config.models_dir, config.store, holder=f"{config.fleet}-{config.name}-ahead")
        models = decode(sys.stdin.buffer.read(), tuple[ModelSpec, ...])
        failures = asyncio.run(fetch(store, Puller(store, credentials=Credentials.read(folder)), models))
    except (RbeeError, msgspec.MsgspecError) as error:
        failures = [str(error)]
    for failure in failures:
        print(failure, file=sys.stderr)  # noqa: T201 - whoever deploys reads it
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
