"""The hive's figures for Prometheus."""

from prometheus_client.parser import text_string_to_metric_families as families

from rbee_runtime.hive.metrics import Meters, exposed, reading
from rbee_runtime.protocol import DeviceReport, FetchReport, ModelReport, WorkerReport
from rbee_runtime.states import FetchState, Observed
from tests.unit.hive.conftest import Start, desired, fake
from tests.unit.hive.waiting import until

DEVICE = DeviceReport(
    id="GPU-1", kind="cuda", name="g", total=80, used=30, foreign=5, reserved=20, measured=18,
    attributes={"temperature": "61", "power": "250.5 W"},
)  # fmt: skip
METERS = Meters(
    name="h1",
    workers={"w": WorkerReport(id="w", model="m", spec="s", state=Observed.READY, restarts=2)},
    models={"m": ModelReport(name="m", size=7)},
    fetches={"n": FetchReport(name="n", state=FetchState.FETCHING, done=3)},
    devices={"GPU-1": DEVICE},
    exits={"crashed": 2},
    events={"drain": 1},
    fetched=3,
    heartbeat_failures=4,
    free=lambda: 99,
)


def samples(text: str) -> dict[tuple[str, str], float]:
    found = [sample for family in families(text) for sample in family.samples]
    return {(s.name.removeprefix("rbee_hive_"), ",".join(s.labels.values())): s.value for s in found}


def test_figures_are_what_they_say() -> None:
    """Bytes, counts and states appear under their names with their labels."""
    found = samples(exposed(METERS)[0].decode())
    expected = {
        ("workers", "ready"): 1, ("workers", "crash_loop"): 0, ("worker_restarts_total", "m,w"): 2,
        ("worker_exits_total", "crashed"): 2, ("device_memory_bytes", "GPU-1,foreign"): 5,
        ("device_memory_bytes", "GPU-1,measured"): 18, ("device_temperature_celsius", "GPU-1"): 61,
        ("device_power_watts", "GPU-1"): 250.5, ("device_healthy", "GPU-1"): 1, ("model_bytes", "m"): 7,
        ("model_store_bytes", ""): 7, ("model_store_free_bytes", ""): 99, ("fetch_state", "n,fetching"): 1,
        ("fetch_state", "n,ready"): 0, ("fetch_bytes_total", ""): 3, ("heartbeat_failures_total", ""): 4,
        ("events_total", "drain"): 1,
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected
    assert not [name for name, _ in found if name.startswith("device_utilisation")]


def test_an_attribute_that_is_no_number_is_left_out() -> None:
    """A driver that says `[N/A]` gives no figure instead of a wrong one."""
    assert [reading(text) for text in ("", "[N/A]", "42", "42.5 W", "7 %")] == [None, None, 42.0, 42.5, 7.0]


async def test_a_hive_exposes_its_own(start: Start) -> None:
    """A scrape of a running hive counts its workers and events."""
    _, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    await until(lambda: queen.in_state("w-1", "ready"))
    answer = await queen.get("/metrics")
    found = samples(answer.text)
    assert answer.headers["content-type"].startswith("text/plain")
    assert (found["workers", "ready"], found["device_memory_bytes", "cpu,total"] > 0) == (1, True)
    assert found["events_total", "worker_state"] >= 2
