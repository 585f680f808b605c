"""The fleet's events: a list, and a stream that is taken up again where it broke."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rbee_runtime.errors import ConfigError, QueenCallError, QueenUnreachableError
from rbee_runtime.keeper.client import QueenClient, Row
from rbee_runtime.keeper.happenings import followed, since
from rbee_runtime.keeper.settings import settle
from tests.unit.keeper.stand_in import StandIn
from tests.unit.keeper.test_cli import Keeper, keeper, queen, server

__all__ = ["keeper", "queen", "server"]

HELD = [{"id": n, "time": 100.0 * n, "kind": "worker_state", "subject": f"w-{n}", "data": {}} for n in range(1, 7)]
RESET = {"id": 0, "time": 1.0, "kind": "reset", "subject": "", "data": {}}


class Feed(BaseHTTPRequestHandler):
    """`/api/v1/events` of a queen: what it holds as JSON, or as a stream of two events after the last one that breaks.

    `asked` are the Last-Event-Ids, `begins_anew` those that it does not know any more.
    """

    protocol_version = "HTTP/1.1"
    asked: list[str]
    begins_anew: frozenset[str] = frozenset()

    def do_GET(self) -> None:
        if self.path == "/api/v1/events" and "text/event-stream" in self.headers["accept"]:
            self._stream(self.headers["last-event-id"])
        else:
            self._send(200, json.dumps(HELD), "application/json")

    def _stream(self, last: str) -> None:
        self.asked.append(last)
        known = last.startswith("q-") and last not in self.begins_anew
        after = int(last.removeprefix("q-")) if known else 0
        told = [*([] if known else [RESET]), *HELD[after : after + 2]]
        if not HELD[after:]:
            self._send(503, json.dumps({"error": {"message": "the queen leaves"}}), "application/json")
            return
        events = (f"id: q-{event['id']}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n" for event in told)
        self._send(200, ": still here\n\n" + "".join(events), "text/event-stream")

    def _send(self, status: int, text: str, media: str) -> None:
        self.send_response(status)
        self.send_header("content-type", media)
        self.send_header("content-length", str(len(text)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def feed(*, begins_anew: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Feed,), {"asked": asked, "begins_anew": begins_anew})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}", asked
        http.shutdown()
        thread.join()


def follow(url: str) -> tuple[list[Row], list[str], list[float]]:
    """Follow until the queen refuses; return events, what was said of gaps, and the waits."""
    found, told, waits = list[Row](), list[str](), list[float]()
    with QueenClient(settle(url, "rbee_a_b", None, None)) as client, pytest.raises(QueenCallError, match="leaves"):
        found.extend(followed(client, say=told.append, sleep=waits.append))
    return found, told, waits


def test_a_stream_that_breaks_is_taken_up_where_it_ended() -> None:
    """Each event comes once, and it is said that nobody was connected for a moment."""
    with feed() as (url, asked):
        found, told, waits = follow(url)
    assert [event["id"] for event in found] == [1, 2, 3, 4, 5, 6]
    assert asked == ["all-0", "q-2", "q-4", "q-6"]
    assert told == ["the stream of events ended; asking again in 0.5 s"] * 3
    assert waits == [0.5] * 3


def test_a_queen_that_began_anew_is_said() -> None:
    """What it holds comes from its beginning, after a word about the gap."""
    with feed(begins_anew=frozenset({"q-4"})) as (url, asked):
        told: list[str] = []
        with QueenClient(settle(url, "rbee_a_b", None, None)) as client:
            stream = followed(client, say=told.append, sleep=lambda _: None)
            found = [next(stream)["id"] for _ in range(6)]
    assert found == [1, 2, 3, 4, 1, 2]
    assert asked == ["all-0", "q-2", "q-4"]
    assert told[-1] == "the queen began anew or holds some events no more: there may be a gap here"


def test_a_queen_that_goes_is_asked_less_and_less_often() -> None:
    """Up to every ten seconds, and without an end; one that never answered is an error at once."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 8:
            raise KeyboardInterrupt

    with feed() as (url, _):
        client = QueenClient(settle(url, "rbee_a_b", None, None))
        stream = followed(client, say=lambda _: None, sleep=sleep)
        next(stream), next(stream)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert waits == [0.5, 1.0, 2.0, 5.0, 10.0, 10.0, 10.0, 10.0]
    with pytest.raises(QueenUnreachableError):
        next(followed(client, say=lambda _: None))
    client.close()


def test_past_events_of_the_fleet_are_the_queens(keeper: Keeper, queen: StandIn) -> None:
    """In its order, from a time on, a line or a JSON object for each."""
    with feed() as (url, _):
        lines = keeper("--url", url, "events", "--since", "1970-01-01T00:08:20")[1].splitlines()
        assert [line.split()[1:] for line in lines] == [["worker_state", "w-5"], ["worker_state", "w-6"]]
        assert [json.loads(line) for line in keeper("--url", url, "events", "--json")[1].splitlines()] == HELD


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0.0), ("10m", 9400.0), ("2h", 2800.0), ("1970-01-02", 86_400.0), ("1970-01-01T01:00+01:00", 0.0)],
)
def test_a_time_is_a_span_or_a_moment(text: str, seconds: float) -> None:
    """A span reaches back from now, a moment is UTC unless it says another zone."""
    assert since(text, 10_000.0) == seconds


def test_what_is_no_time_is_one_sentence() -> None:
    """With what to write."""
    with pytest.raises(ConfigError, match="--since 'soon' is no time: write 10m, 2h"):
        since("soon", 0.0)
