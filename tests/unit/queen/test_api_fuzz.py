"""The admin API driven from its own description: whatever is sent, the answer is one that it tells of."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from schemathesis.config import HealthCheck, InferenceAlgorithm
from schemathesis.engine import Status, events, from_schema
from schemathesis.schemas import BaseSchema

from tests.unit.queen.whole import Whole, whole

SECONDS = 40
"""For all phases; what is left of them then is left out."""

EXAMPLES = 8
MODELS = ["m", "org/cold:q4"]
SCOPES = "which scope opens what is tested for every route by test_policy.py"
METHODS = {"get", "put", "post", "delete", "options", "patch", "head"}
"""TRACE and CONNECT end their connection before anybody looks at a path."""


@contextmanager
def real_names(queen: Whole) -> Iterator[None]:
    """Have every other call be about things that are there, no answer without end, and no key that is over already."""
    controller, numbers = queen.serving.controller, itertools.count()

    def before_call(context: object, case: Any, **kwargs: object) -> None:
        number, fields = next(numbers), case.path_parameters or {}
        there = {
            "name": ["local", "m", "org/cold:q4"],
            "model": ["m", "org/cold:q4"],
            "worker": list(controller.assignments),
        }
        for name in fields.keys() & there.keys():
            if number % 2 and there[name]:
                fields[name] = there[name][number // 2 % len(there[name])]
        if (case.query or {}).get("follow") in (1, "1"):
            # A log without end; test_hive_calls.py reads some.
            case.query["follow"] = 0
        if isinstance(case.body, dict) and type(case.body.get("expires")) in (int, float):
            case.body["expires"] = case.body["expires"] and max(case.body["expires"], int(time.time()) + 3600)

    schemathesis.hook(before_call)
    try:
        yield
    finally:
        schemathesis.hooks.unregister(before_call)


def described(queen: Whole) -> BaseSchema:
    """Return the description that the queen serves, ready to drive her with."""
    schema = schemathesis.openapi.from_dict(
        httpx.get(f"{queen.url}/api/v1/openapi.json", headers=queen.headers).raise_for_status().json()
    )
    config = schema.config
    headers = {**queen.headers, "accept": "application/json"}
    config.update(base_url=queen.url, headers=headers, request_timeout=10, continue_on_failure=True)
    config.update(suppress_health_check=[HealthCheck.all])
    config.generation.update(max_examples=EXAMPLES, with_security_parameters=False, database="none", no_shrink=True)
    config.phases.coverage.unexpected_methods = METHODS
    # It would follow what looks like an address in an answer, and stumbles over `[Errno 111]` in the words of a worker.
    config.phases.stateful.inference.algorithms = [InferenceAlgorithm.DEPENDENCY_ANALYSIS]
    config.checks.update(excluded_check_names=["ignored_auth"])
    config.max_time = SECONDS
    # What a source names has to be on a disk, which no description tells; test_laptop.py has its cases.
    return schema.exclude(path="/api/v1/models", method="POST")


def driven(queen: Whole) -> tuple[Counter[str], list[str]]:
    """Return how often each operation was called, and what is wrong with answers."""
    calls, problems = Counter[str](), set[str]()
    with real_names(queen):
        for event in from_schema(described(queen)).execute():
            if isinstance(event, events.NonFatalError | events.FatalError):
                problems.add(str(event))
            if not isinstance(event, events.ScenarioFinished):
                continue
            cases = event.recorder.cases
            calls.update(cases[name].value.operation.label for name in event.recorder.interactions)
            problems |= {
                f"{cases[name].value.operation.label} {check.name}: {check.failure_info.failure}\n"
                f"{check.failure_info.code_sample}"
                for name, checks in event.recorder.checks.items()
                for check in checks
                if check.status is Status.FAILURE and check.failure_info is not None
            }
    return calls, sorted(problems)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
async def test_every_answer_is_one_that_the_description_tells_of(tmp_path: Path) -> None:
    """No server error and no answer of another form, for what is right, at each bound, beyond it and in sequences."""
    async with whole(tmp_path) as queen:
        calls, problems = await asyncio.to_thread(driven, queen)
        paths = queen.serving.controller.history.log.counts
    assert problems == [], "\n".join(each[:300] for each in problems)
    assert len(calls) == 27
    assert {"key", "hive_state"} <= paths.keys()
