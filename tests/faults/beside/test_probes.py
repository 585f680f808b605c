"""The comparison itself: it sees who bears nothing, and sets up each peer with the limits that a row needs."""

from pathlib import Path

import psutil
import pytest
import yaml

from benchmarks.gateway.running import Bench, Cores, Ports
from tests.faults.beside import gateways
from tests.faults.beside.gateways import Gateway, Wants
from tests.faults.beside.probes import FAULTS
from tests.faults.beside.workers import told
from tests.faults.rows import row


@pytest.mark.parametrize("name", ["F1", "F2", "F3", "F4"])
async def test_who_has_no_gateway_bears_nothing(name: str) -> None:
    """Asked itself, a worker breaks the promise of each row that it can break alone."""
    fault, row_ = FAULTS[name], row(name, "queen")
    async with told(fault.workers) as workers:
        alone = Gateway("none", workers[0].port, "", psutil.Process(), workers)
        assert not (await fault.probe(alone, row_)).ok


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Cores(0, 0), Ports(), tmp_path)


@pytest.mark.parametrize(
    ("wants", "options"),
    [
        (Wants(), []),
        (Wants(silence=5.0), ["--request-timeout-secs", "5"]),
        (Wants(slots=4), ["--max-concurrent-requests", "4", "--queue-size", "32"]),
    ],
)
def test_vllm_router_gets_the_limits_of_a_row(bench: Bench, wants: Wants, options: list[str]) -> None:
    """In its own options, behind the workers' addresses."""
    command, _, key, _ = gateways.vllm_router(Path("/env"), 9000, [1, 2], wants, bench)
    rest = list(command[command.index("--worker-urls") + 1 :])
    assert (rest, key) == (["http://127.0.0.1:1", "http://127.0.0.1:2", *options], "")


@pytest.mark.parametrize(
    ("wants", "options"),
    [
        (Wants(), {}),
        (Wants(silence=5.0), {"timeout": 5.0, "stream_timeout": 5.0}),
        (Wants(slots=4), {"max_parallel_requests": 4}),
    ],
)
def test_litellm_gets_the_limits_of_a_row(bench: Bench, wants: Wants, options: dict[str, object]) -> None:
    """For each worker, in its file, with the retries of its manual."""
    gateways.litellm(Path("/env"), 9000, [1, 2], wants, bench)
    settings = yaml.safe_load((bench.folder / "litellm.yaml").read_text())
    given = [each["litellm_params"] for each in settings["model_list"]]
    known = {"model", "api_base", "api_key"}
    assert [{name: value for name, value in each.items() if name not in known} for each in given] == [options] * 2
    assert settings["litellm_settings"]["num_retries"] == 2
