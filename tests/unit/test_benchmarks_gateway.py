"""The parts of `make bench-gateway` that need no gateway: figures, settings of peers, mock workers and clients."""

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.gateway import __main__ as program
from benchmarks.gateway import answers, distribution, load, measures, mock, peers, queen, results, running, sides
from benchmarks.gateway.answers import STREAM, WHOLE, Form
from benchmarks.gateway.hive import Hive
from benchmarks.gateway.load import Answer, BenchError, ClosedLoop, OpenLoop, Target
from benchmarks.gateway.results import Found, Sample, Side, Verdict
from benchmarks.gateway.running import Cores, Running, Told, Workers
from benchmarks.gateway.sides import Installed
from rbee_deploy.errors import ArtefactError
from rbee_runtime import config
from rbee_runtime.config import FleetFile, QueenConfig
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import Desired, WorkerSpec, encode
from tests.ports import free_ports
from tests.unit.certificates import issue_fleet

SAMPLES = {
    Side.QUEEN: Sample(30000, 3000, 0.99, 0.01, 15, 0.5, 2.0),
    Side.QUEEN_TLS: Sample(20000, 2500, 0.99, 0.01, 20, 0.6, 2.5),
    Side.AGAIN: Sample(31250, 3125, 0.99, 0.01, 15, 0.5, 2.0),
    Side.VLLM_ROUTER: Sample(15000, 2500, 0.99, 0.01, 12, 0.4, 1.5),
    Side.LITELLM: Sample(50, 10, 0.99, 0.01),
    Side.NGINX: Sample(50000, 8000, 0.8, 0.01, 5, 0.3, 1.0),
    Side.DIRECT: Sample(60000, 9000, None, None, None, 0.2, 0.5),
}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine be late."""
    monkeypatch.setattr(load, "LATE_SECONDS", 20.0)
    monkeypatch.setattr(measures, "OFF", 100.0)


def found(changed: dict[Side, dict[str, Any]] | None = None, *, lost: tuple[Side, ...] = ()) -> Found:
    """Return figures of two rounds in two moods of the machine, with some of them changed and some sides absent."""
    samples = {side: replace(sample, **(changed or {}).get(side, {})) for side, sample in SAMPLES.items()}
    there = {side: sample for side, sample in samples.items() if side not in lost}
    slow = {side: replace(sample, json=sample.json / 2, sse=sample.sse / 2) for side, sample in there.items()}
    together: dict[Side, int] = {side: results.TOGETHER for side in there if side not in (Side.LITELLM, Side.AGAIN)}
    absent = dict.fromkeys(lost, "no such package")
    return Found(rounds=[there, slow], together=together, versions={Side.NGINX: "1.22.1"}, absent=absent)


def test_figures_are_a_line_of_json() -> None:
    """Figures are medians, ratios are ours in theirs within a round; what was not measured is null."""
    line = json.loads(found().line())
    assert list(line)[:5] == ["bench", "json_rps", "sse_rps", "us_per_chunk", "ratio_vllm_router"]
    assert line["json_rps"]["queen"] == 22500
    assert line["us_per_chunk"]["litellm"] is None
    assert (line["ratio_vllm_router"], line["ratio_litellm"]) == ({"json": 2.0, "sse": 1.2}, {"json": 600, "sse": 300})
    assert line["added_ms"] == {"p50": 0.3, "p99": 1.5}
    assert line["queen_tls"]["ratio_vllm_router"] == {"json": 1.333, "sse": 1.0}
    assert (line["aa_spread"], line["versions"], line["rounds"]) == (0.04, {"nginx": "1.22.1"}, 2)
    assert line["streams_2000"]["queen_tls"] == 2000
    assert line["verdict"] == "met"


@pytest.mark.parametrize(
    "changed",
    [
        {Side.QUEEN: {"json": 29999.0}},
        {Side.VLLM_ROUTER: {"sse": 2800.0}},
        {Side.LITELLM: {"sse": 31.0}},
        {Side.QUEEN: {"p50": 0.71}},
        {Side.QUEEN: {"p99": 3.51}},
    ],
)
def test_each_goal_can_be_missed(changed: dict[Side, dict[str, Any]]) -> None:
    """One figure that is not good enough is enough, and its sentence says so."""
    missed = found(changed)
    assert missed.verdict is Verdict.NOT_MET
    assert [goal.sentence().endswith(": not met") for goal in missed.goals()].count(True) == 1


def test_what_the_queen_cannot_do_is_a_goal_missed() -> None:
    """A queen that takes no steady pace has no added time, and is not excused by that."""
    weak = found({Side.QUEEN: {"p50": None, "p99": None}})
    del weak.together[Side.QUEEN]
    assert weak.verdict is Verdict.NOT_MET
    assert [goal.met for goal in weak.goals()].count(False) == 3


def test_on_a_busy_machine_nothing_is_decided() -> None:
    """What others took of the core is in every figure; what a full core would give is told all the same."""
    busy = found({Side.QUEEN: {"core": 0.5, "foreign": 0.4, "json": 15000.0}})
    assert busy.verdict is Verdict.UNDECIDED
    assert busy.remarks()[-1] == "others of this machine took 40% of the gateways' core: measure on a quieter one"
    assert json.loads(busy.line())["full_core"]["queen"] == 22500


@pytest.mark.parametrize("side", [Side.QUEEN, Side.QUEEN_TLS])
def test_every_stream_has_to_pass(side: Side) -> None:
    """One of two thousand that does not is a missed goal."""
    missed = found()
    missed.together[side] = 1999
    assert missed.verdict is Verdict.NOT_MET


@pytest.mark.parametrize("side", [Side.VLLM_ROUTER, Side.LITELLM])
def test_without_a_peer_nothing_is_decided(side: Side) -> None:
    """Its ratios are null, a sentence says why, and a goal that is missed stays so."""
    without = found(lost=(side,))
    assert json.loads(without.line())[f"ratio_{side}"] == {"json": None, "sse": None}
    assert f"{side} could not be measured here: no such package" in without.remarks()
    assert without.verdict is Verdict.UNDECIDED
    assert found({Side.QUEEN: {"p50": 9.0}}, lost=(side,)).verdict is Verdict.NOT_MET


def test_a_figure_that_a_round_lacks_is_none() -> None:
    """A median of the rounds that went well would flatter."""
    partly = found()
    partly.rounds[1] = {**partly.rounds[1], Side.QUEEN: replace(SAMPLES[Side.QUEEN], chunk=None)}
    assert partly.figure(Side.QUEEN, "us_per_chunk") is None
    assert "queen has its core full before 300 live streams run: no price of a chunk" in partly.remarks()


def test_remarks_tell_whose_figures_are_not_its_own() -> None:
    """Who left its core idle could have answered more; who is too slow was not asked for more."""
    assert found().remarks() == [
        "litellm takes too few streams a second for 200 a second and 2000 together",
        "litellm has its core full before 300 live streams run: no price of a chunk",
        "nginx left 19% of its core idle: others were the bound",
    ]
    assert Side.LITELLM not in found().steady()


def test_the_table_has_a_row_for_each_side() -> None:
    """Cells stand under their heads."""
    lines = found().table().splitlines()
    assert len(lines) == 1 + len(Side)
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("values", "share", "value"), [([3, 1, 2], 0.5, 2), ([1], 0.99, 1), (range(800), 0.99, 791), (range(800), 0.5, 399)]
)
def test_a_quantile_is_one_of_the_values(values: Any, share: float, value: float) -> None:
    """The smallest that so many do not exceed."""
    assert results.quantile(values, share) == value


def test_each_side_is_as_often_in_each_place() -> None:
    """Over as many rounds as sides nobody is always first."""
    sides = tuple(Side)
    places = Counter((at, side) for number in range(len(sides)) for at, side in enumerate(results.order(sides, number)))
    assert set(places.values()) == {1}


@pytest.mark.parametrize("form", [WHOLE, STREAM, Form(stream=True, chunks=7, gap=50)])
def test_a_request_says_how_to_answer(form: Form) -> None:
    """Both ends agree by what stands in the prompt."""
    head, _, body = answers.request(form, port=1, key="k", model="bench-a").partition(b"\r\n\r\n")
    assert b"Authorization: Bearer k" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert answers.wanted(body) == form
    assert json.loads(body).get("stream", False) == form.stream


def test_a_stream_has_its_tokens_its_usage_and_its_end() -> None:
    """As an OpenAI server sends it."""
    events = answers.body_of(STREAM).split(b"\n\n")[:-1]
    data = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert [len(each["choices"]) for each in data] == [1] * 100 + [0]
    assert data[99]["choices"][0]["finish_reason"] == "stop"
    assert data[100]["usage"]["completion_tokens"] == 100
    assert events[-1] == b"data: [DONE]"


RIGHT = answers.body_of(STREAM)


@pytest.mark.parametrize(
    ("status", "body", "exact", "said"),
    [
        (200, RIGHT, True, ""),
        (200, RIGHT, False, ""),
        (200, RIGHT.replace(b'"id"', b'"own":1,"id"'), False, ""),
        (200, RIGHT.replace(b'"id"', b'"own":1,"id"'), True, "bytes that are not"),
        (200, RIGHT[:-1], True, "bytes that are not"),
        (200, RIGHT.removesuffix(answers.DONE), False, "a stream that ends with"),
        (200, RIGHT.replace(b" harbour", b"", 1), False, "99 tokens instead of 100"),
        (503, b'{"error": "busy"}', True, "status 503"),
    ],
)
def test_a_wrong_answer_is_found(status: int, body: bytes, exact: bool, said: str) -> None:
    """By its bytes where they are the worker's own, else by its tokens and its end."""
    fault = answers.fault(STREAM, status, body, exact=exact)
    assert said in fault
    assert bool(said) == bool(fault)


def test_nginx_is_one_process_that_holds_nothing_back(tmp_path: Path) -> None:
    """Connections to workers are kept, answers are not buffered, files are in the folder alone."""
    text = peers.nginx_settings(9000, (1, 2), tmp_path, root=True)
    for wanted in ("worker_processes 1;", "proxy_buffering off;", "keepalive 1024;", "user nobody nogroup;"):
        assert wanted in text
    assert text.count(" server 127.0.0.1:") == 2
    assert text.count(f"{tmp_path}/") == 6
    assert "user" not in peers.nginx_settings(9000, (1,), tmp_path, root=False)


def test_litellm_has_half_of_the_workers_for_each_model() -> None:
    """With one key, and no second try that would hide an error."""
    settings = yaml.safe_load(peers.litellm_settings(range(9400, 9408)))
    assert Counter(each["model_name"] for each in settings["model_list"]) == {"bench-a": 4, "bench-b": 4}
    assert len({each["litellm_params"]["api_base"] for each in settings["model_list"]}) == 8
    assert settings["litellm_settings"]["num_retries"] == 0
    assert settings["general_settings"]["master_key"] == peers.MASTER_KEY


def test_commands_are_shown_as_a_shell_takes_them() -> None:
    """With their core and environment, so that anybody can run them."""
    command = running.pinned(1, peers.vllm_router(Path("/env"), 9000, 9001, (1, 2)))
    assert running.shown(command, {"A": "b c"}) == (
        "'A=b c' taskset --cpu-list 1 /env/bin/vllm-router --host 127.0.0.1 --port 9000 --policy round_robin "
        "--prometheus-port 9001 --worker-urls http://127.0.0.1:1 http://127.0.0.1:2"
    )


def test_a_peer_that_cannot_be_had_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason in one line; the others are there with their versions."""

    def missing() -> Installed:
        raise ArtefactError("could not download it:\n  no such package")

    here = Installed(Path("/nginx"), "1.2")
    monkeypatch.setattr(sides, "_GET", {Side.LITELLM: missing, Side.NGINX: lambda: here})
    noted = Found()
    assert sides.installed(noted) == {Side.NGINX: here}
    assert noted.versions == {Side.NGINX: "1.2"}
    assert noted.absent == {Side.LITELLM: "could not download it: no such package"}


@pytest.mark.parametrize("side", [Side.VLLM_ROUTER, Side.LITELLM, Side.NGINX])
def test_every_peer_gets_a_port_and_all_workers(tmp_path: Path, side: Side) -> None:
    """In its command or in the settings that its command names."""
    bench = running.Bench(Cores(1, 0), running.Ports(), tmp_path)
    made = sides.peer(side, Path("/p"), bench, (11, 12, 13, 14))
    named = [Path(word) for word in made.command if word.startswith(str(tmp_path))]
    told = " ".join((*made.command, *(path.read_text() for path in named)))
    assert all(f"127.0.0.1:{port}" in told for port in (11, 12, 13, 14))
    assert str(made.target.port) in told
    assert (made.target.exact, made.target.keys == ("",)) == ((side is not Side.LITELLM,) * 2)


def test_the_archive_tells_its_version() -> None:
    """Names in addresses are quoted; a package that has none, or more, is refused."""
    assert distribution.archive_name("'http://h/n_1%2b2.deb' nginx_1.22.1-9%2bdeb12u9_amd64.deb 5 SHA256:1") == (
        "nginx_1.22.1-9+deb12u9_amd64.deb"
    )
    with pytest.raises(ArtefactError, match="names no archive"):
        distribution.archive_name("")


@pytest.mark.parametrize("link_dir", [None, Path("/pki")])
def test_the_queen_takes_its_settings(tmp_path: Path, link_dir: Path | None) -> None:
    """Two models on eight workers, with a laptop's token or a fleet's certificates."""
    place = queen.Place(tmp_path, 1, 2, link_dir)
    assert config.parse(queen.settings(place), QueenConfig, where="t").link_dir == link_dir
    models = config.parse(queen.fleet(8), FleetFile, where="t").models
    assert [(model.replicas_min, model.slots) for model in models] == [(4, queen.SLOTS)] * 2


class _Put:
    def __init__(self, document: Desired) -> None:
        self._document = document

    async def body(self) -> bytes:
        return encode(self._document)


async def test_the_hive_reports_what_it_is_told_to_run() -> None:
    """Each worker ready on a port of its own, which it keeps, with the spec that is wanted."""
    hive = Hive((11, 12), slots=5)
    assert (await hive.compose()).workers == ()
    specs = tuple(WorkerSpec(id=name, model="m", engine="fake") for name in ("a", "b"))
    for revision, workers in ((1, specs[:1]), (2, specs)):
        await hive.desired(_Put(Desired(fleet="f", epoch=1, revision=revision, workers=workers)))  # type: ignore[arg-type]
    said = await hive.compose()
    assert (said.epoch, said.revision) == (1, 2)
    assert [(worker.port, worker.state, worker.slots) for worker in said.workers] == [
        (11, "ready", 5),
        (12, "ready", 5),
    ]
    assert [worker.spec for worker in said.workers] == [spec.digest() for spec in specs]


@contextlib.asynccontextmanager
async def _workers(link: Link = Link(Role.WORKER, "f")) -> AsyncIterator[Workers]:  # noqa: B008 - it is frozen
    """Run two mock workers, the second one with TLS if there are certificates."""
    first, control = free_ports(3)
    plain, tls = (first,), (first + 1,) if link.directory is not None else ()
    serving = asyncio.create_task(mock.serve(plain, tls, control, link))
    workers = Workers(plain, tls, control)
    while not serving.done():
        with contextlib.suppress(OSError):
            await workers.told()
            break
        await asyncio.sleep(0.01)
    try:
        yield workers
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def _direct(workers: Workers, **changed: Any) -> Running:
    return Running(Target("direct", workers.plain[0], **changed), workers.plain)


@pytest.mark.parametrize("form", [WHOLE, STREAM])
@pytest.mark.parametrize("exact", [True, False])
async def test_connections_ask_again_until_the_time_is_over(form: Form, exact: bool) -> None:
    """All answers are right, and the worker saw as many requests."""
    async with _workers() as workers:
        rate = await ClosedLoop(_direct(workers, exact=exact).target, form).run(2, 0.05)
        told = await workers.told()
    assert rate.answers >= 2
    assert rate.per_second == pytest.approx(rate.answers / rate.seconds)
    assert (told.on(workers.plain[0]), told.open) == (rate.answers, 0)


async def test_requests_are_sent_at_their_times() -> None:
    """Whoever has been answered by then: streams that last are under way together."""
    form = Form(stream=True, chunks=4, gap=150)
    async with _workers() as workers:
        got = await OpenLoop(_direct(workers).target, form, 10, 0.001).run(5, spare=2)
        told = await workers.told()
    assert [answer.fault for answer in got] == [""] * 10
    assert all(answer.first > 0 for answer in got)
    assert (told.tokens, told.peak) == (40, 10)


async def test_an_answer_that_does_not_come_is_wrong() -> None:
    """It is counted as such once its time is over."""
    form = Form(stream=True, chunks=2, gap=2000)
    async with _workers() as workers:
        got = await OpenLoop(_direct(workers).target, form, 2, 0.001).run(0.2)
    assert [answer.fault for answer in got] == ["no answer within 0.2 s"] * 2


async def test_requests_that_are_sent_late_are_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends them had no core, and the gateway would look quicker than it is."""
    monkeypatch.setattr(load, "LATE_SECONDS", -1.0)
    async with _workers() as workers:
        with pytest.raises(BenchError, match=r"3 requests were sent in .* s instead of 0\.00: no core is free"):
            await OpenLoop(_direct(workers).target, WHOLE, 3, 0.001).run(5)


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy")
    writer.close()


async def _break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\nbusy")
    writer.close()


async def _babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"what?\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("how", "said"), [(_refuse, "status 503"), (_break_off, "broke off after 4 bytes"), (_babble, "is not HTTP")]
)
async def test_what_is_no_answer_is_no_figure(how: Any, said: str) -> None:
    """The first wrong answer ends a closed loop with a sentence; an open one counts it."""
    async with await asyncio.start_server(how, "127.0.0.1", 0) as server:
        target = Target("odd", server.sockets[0].getsockname()[1])
        with pytest.raises(BenchError, match=f"odd answered wrong: .*{said}"):
            await ClosedLoop(target, WHOLE).run(1, 5)
        got = await OpenLoop(target, WHOLE, 1, 0.001).run(5)
        assert said in got[0].fault


async def test_nobody_there_is_a_sentence() -> None:
    """A gateway that takes no connection."""
    with pytest.raises(BenchError, match="gone takes no connection"):
        await ClosedLoop(Target("gone", free_ports(1)[0]), WHOLE).run(1, 1)


async def test_mock_workers_answer_as_workers_over_mutual_tls(tmp_path: Path) -> None:
    """A queen of the fleet is let in and sees the role worker; who shows no certificate is not."""
    pki = issue_fleet(tmp_path, "f")
    async with _workers(Link(Role.WORKER, "f", pki)) as workers:
        url = f"https://127.0.0.1:{workers.tls[0]}"
        async with Link(Role.QUEEN, "f", pki).client(timeout=httpx.Timeout(5), peer=Role.WORKER) as client:
            ready = await client.get(f"{url}/ready")
            odd = await client.get(f"{url}/odd")
            unclear = await client.post(f"{url}/v1/chat/completions", content=b"{}")
        async with httpx.AsyncClient(verify=False) as stranger:
            with pytest.raises(httpx.HTTPError):
                await stranger.get(f"{url}/ready")
    assert (ready.json()["ready"], odd.status_code, unclear.status_code) == (True, 404, 400)


@pytest.mark.parametrize(
    ("seen", "given", "said"),
    [
        ({"1": 50, "2": 50}, 100, ""),
        ({"1": 60, "2": 50}, 100, "100 answers, and its workers saw 110 requests"),
        ({"1": 100}, 100, "none of 100 requests to the workers on ports 2"),
        ({"1": 10}, 10, ""),
    ],
)
def test_workers_have_to_have_seen_what_was_answered(seen: dict[str, int], given: int, said: str) -> None:
    """An answer that no worker gave is none, and one that took two requests hides an error; all workers are used."""
    side = Running(Target("odd", 9), (1, 2))
    raised = pytest.raises(BenchError, match=said) if said else contextlib.nullcontext()
    with raised:
        measures._agree(side, Told({}, 0, 0, 0), Told(seen, 0, 0, 0), given)


def test_an_open_loop_with_errors_is_no_figure() -> None:
    """The sentence has the first of them."""
    with pytest.raises(BenchError, match="odd answered 1 of 2 wrong, first: late"):
        measures._demand(Running(Target("odd", 9), ()), [Answer(0.1), Answer(0.0, "late")])


async def test_a_round_has_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is quick enough is asked at a steady pace; without a gateway there is no price of a chunk."""
    for name, value in {"CONNECTIONS": 2, "WARM_SECONDS": 0.01, "PACE": 20, "LIVE": 4, "RAMP_SECONDS": 0.1}.items():
        monkeypatch.setattr(measures, name, value)
    async with _workers() as workers:
        direct = _direct(workers)
        got = await measures.sample(direct, workers, 0.1)
        price = await measures.live(direct, workers, 0.2)
    assert (got.core, got.chunk, price) == (None, None, 0.0)
    assert got.p50 is not None
    assert got.p99 is not None
    assert 0 < got.p50 <= got.p99


async def test_streams_together_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only if all were under way at the same time."""
    sizes = {"TOGETHER": 20, "TOGETHER_RAMP": 0.1, "TOGETHER_GAP": 250, "TOGETHER_CHUNKS": 4}
    for name, value in sizes.items():
        monkeypatch.setattr(measures, name, value)
    async with _workers() as workers:
        assert await measures.together(_direct(workers), workers) == (20, "")
        monkeypatch.setattr(measures, "TOGETHER_GAP", 1)
        with pytest.raises(BenchError, match="of 20 streams through direct were under way together"):
            await measures.together(_direct(workers), workers)


def test_processor_time_is_that_of_a_process() -> None:
    """The clock of another process, read by its number, is the one that the process itself reads."""
    assert running.cpu_of(os.getpid()) == pytest.approx(time.process_time(), abs=0.1)


def test_one_core_is_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that shares its core with who asks it has no figure of its own."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7, 5})
    assert Cores.of_this_machine() == Cores(gateway=7, load=3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    with pytest.raises(BenchError, match="two processor cores"):
        Cores.of_this_machine()


@pytest.mark.parametrize(
    ("script", "said"), [("echo dear me; exit 3", "odd did not start: dear me"), ("exit 3", "it said nothing")]
)
async def test_a_program_that_does_not_start_is_a_sentence(tmp_path: Path, script: str, said: str) -> None:
    """With its last words."""

    async def never() -> bool:
        return False

    with pytest.raises(BenchError, match=said):
        async with running.started("odd", ("sh", "-c", script), tmp_path / "log", never):
            pass


@pytest.mark.parametrize("argv", [["--rounds", "0"], ["--rounds", "31"], ["--seconds", "0.5"], ["--seconds", "nan"]])
def test_what_cannot_be_measured_is_a_sentence(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Out of bounds is exit status 2, with the bounds."""
    read: Callable[[list[str]], object] = program.read_options
    with pytest.raises(SystemExit) as left:
        read(argv)
    assert left.value.code == 2
    assert "is not between 1 and" in capsys.readouterr().err
