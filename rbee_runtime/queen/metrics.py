"""The queen's figures for Prometheus, read when somebody asks for them and not before."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rbee_runtime import __version__, metrics
from rbee_runtime.metrics import Durations, Values
from rbee_runtime.queen import views
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.figures import Figures
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.placement import drafted
from rbee_runtime.queen.views import ModelState
from rbee_runtime.states import Observed

if TYPE_CHECKING:
    from prometheus_client.core import Metric

ABSENT, UNREACHABLE = "absent", "unreachable"
"""States of workers besides those that hives tell: no hive has it yet, or it does not answer the queen."""

LEDGER = ("total", "foreign", "reserved", "measured", "headroom", "free")
"""What placement books of each device, see ledger.py."""


@dataclass(frozen=True)
class Meters:
    """What is read; `open` says how many requests are under way, in line or at a worker."""

    controller: Controller
    figures: Figures
    open: Callable[[], int] = int

    def exposed(self) -> tuple[bytes, str]:
        """Return the text of `/metrics` and its media type."""
        return metrics.exposed(_Collector(self))


class _Collector:
    def __init__(self, meters: Meters) -> None:
        self._controller = meters.controller
        self._figures = meters.figures
        self._open = meters.open

    def collect(self) -> "Iterator[Metric]":
        yield from self._requests()
        yield from self._durations()
        yield from self._models()
        yield from self._fleet()
        yield from self._ledger()
        yield from self._process()

    def _requests(self) -> "Iterator[Metric]":
        figures = self._figures
        labels = ("route", "model", "status")
        yield _counter("requests", "Requests by route, model and status.", labels, dict(figures.requests()))
        refusals = {(code,): float(count) for code, count in figures.refusals.items()}
        yield _counter("refusals", "Requests that got an error of the queen and nothing else.", ("code",), refusals)
        ends = {(name, cause): float(n) for name, of in figures.models.items() for cause, n in of.ends.items()}
        yield _counter("streams", "Streams by why they ended.", ("model", "cause"), ends)
        for name, text, attribute in (
            ("retries", "Further tries on other workers.", "retries"),
            ("continuations", "Streams that another worker went on with, each time.", "continued"),
            ("prompt_tokens", "Tokens of prompts, as workers counted them.", "prompt_tokens"),
            ("completion_tokens", "Tokens of answers, as workers counted them.", "answer_tokens"),
        ):
            counts = {(model,): float(getattr(of, attribute)) for model, of in figures.models.items()}
            yield _counter(name, text, ("model",), counts)

    def _durations(self) -> "Iterator[Metric]":
        for name, text, attribute in (
            ("time_to_first_byte_seconds", "From the request to the first byte of its answer.", "first"),
            ("request_seconds", "From the request to the end of its answer.", "seconds"),
            ("queue_seconds", "In line, of requests that found no free slot.", "waits"),
        ):
            taken = [((model,), getattr(of, attribute)) for model, of in self._figures.models.items()]
            yield _histogram(name, text, ("model",), taken)

    def _models(self) -> "Iterator[Metric]":
        controller = self._controller
        names = controller.fleet.names
        waiting = {(name,): float(controller.waiting(name)) for name in names}
        yield _gauge("queue", "Requests that wait for a slot.", ("model",), waiting)
        running = {(name,): float(sum(seat.in_flight for seat in controller.seats(name))) for name in names}
        yield _gauge("in_flight", "Requests at workers.", ("model",), running)
        yield _gauge("open_requests", "Requests under way, in line or at workers.", (), {(): float(self._open())})
        counts = Counter(views.state(controller, name) for name in names)
        states = {(state.value,): float(counts[state]) for state in ModelState}
        yield _gauge("models", "Models by what a client can expect.", ("state",), states)
        loads = [((result,), taken) for result, taken in controller.history.loads.items()]
        yield _histogram("load_seconds", "How long loads of models took that are over.", ("result",), loads)

    def _fleet(self) -> "Iterator[Metric]":
        controller = self._controller
        names = {hive.name for hive in controller.fleet.current.hives} or controller.membership.members.keys()
        hives = Counter(controller.membership.presence(name) for name in names)
        presences = {(presence.value,): float(hives[presence]) for presence in Presence}
        yield _gauge("hives", "Hives by presence.", ("state",), presences)
        drained = sum(m.record.drained for name, m in controller.membership.members.items() if name in names)
        yield _gauge("hives_drained", "Hives that an operator drains.", (), {(): float(drained)})
        workers = Counter(_shown(controller, worker) for worker in controller.assignments)
        workers.update(UNREACHABLE if place.problem else "ready" for place in controller.externals.places())
        states = {(state,): float(workers[state]) for state in (*Observed, ABSENT, UNREACHABLE)}
        yield _gauge("workers", "Workers, those of external servers included, by state.", ("state",), states)

    def _ledger(self) -> "Iterator[Metric]":
        draft = drafted(self._controller.situation())
        values: dict[tuple[str, str, str], float] = {}
        for hive in draft.situation.hives.values():
            for account in draft.accounts(hive).values():
                booked = {"total": account.device.total, "foreign": account.device.foreign}
                for kind in LEDGER:
                    values[hive.name, account.id, kind] = float(booked.get(kind, getattr(account, kind, 0)))
        text = "Memory of devices as placement books it."
        yield _gauge("ledger_bytes", text, ("hive", "device", "kind"), values)

    def _process(self) -> "Iterator[Metric]":
        controller = self._controller
        yield _gauge("info", "Version of this queen.", ("version",), {(__version__,): 1.0})
        problems = {"fleet_file": controller.fleet.problem, "database": controller.store_problem}
        said = {(what,): float(bool(problem)) for what, problem in problems.items()}
        yield _gauge("problem", "1 for what keeps this queen from going on as it should.", ("what",), said)
        log = controller.history.log
        yield _gauge("event_readers", "Who follows the events.", (), {(): float(log.readers)})
        events = {(kind,): float(count) for kind, count in log.counts.items()}
        yield _counter("events", "Events by kind.", ("kind",), events)


def _shown(controller: Controller, worker: str) -> str:
    if worker in controller.unreachable:
        return UNREACHABLE
    return controller.assignments[worker].observed or ABSENT


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Values) -> "Metric":
    return metrics.gauge(f"rbee_queen_{name}", text, labels, values)


def _counter(name: str, text: str, labels: tuple[str, ...], values: Values) -> "Metric":
    return metrics.counter(f"rbee_queen_{name}", text, labels, values)


def _histogram(name: str, text: str, labels: tuple[str, ...], taken: list[tuple[tuple[str], Durations]]) -> "Metric":
    return metrics.histogram(f"rbee_queen_{name}", text, labels, taken)
