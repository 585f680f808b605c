"""One answer, token by token: prefill, sample, decode, until an end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import randbits
from typing import Any

from rbee_runtime.worker.engines import ChatRequest, Delta, Finish, Usage
from rbee_runtime.worker.engines.llamacpp.native import BATCH, NativeModel
from rbee_runtime.worker.engines.llamacpp.text import TextStream

_SEED_MASK = 0x7FFFFFFF
"""llama.cpp takes 32 bits, and all ones mean a random seed."""

PENALTY_TOKENS = 1024
"""How far back the frequency and presence penalties look."""

TEMPERATURE, TOP_P, TOP_K, MIN_P = 0.8, 0.95, 40, 0.05
"""llama.cpp's own defaults, for what a client leaves open: OpenAI's (1.0 over the whole vocabulary) suit large models
only, a small one drifts into noise within some hundred tokens."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request whose prompt is tokenised; `room` is how many tokens the answer may have."""

    request: ChatRequest
    prompt: list[int]
    room: int


def generate(model: NativeModel, job: Job) -> Iterator[Delta]:
    """Yield the answer's deltas; ends without a `finish` if aborted."""
    kept = model.keep_prefix_of(job.prompt)
    rest = job.prompt[kept:]
    for start in range(0, len(rest), BATCH):
        if not model.decode(rest[start : start + BATCH]):
            return
    with _sampler(model, job.request) as sampler:
        yield from _answer(model, job, sampler, cached=kept)


def _answer(model: NativeModel, job: Job, sampler: Any, *, cached: int) -> Iterator[Delta]:
    text = TextStream(job.request.stop)
    finish, produced = Finish.LENGTH, 0
    while produced < job.room:
        token = model.library.llama_sampler_sample(sampler, model.context, -1)
        if model.ends(token):
            finish = Finish.STOP
            break
        produced += 1
        shown = text.push(model.piece_of(token))
        if shown:
            yield Delta(text=shown)
        if text.stopped:
            break
        if produced < job.room and not model.decode([token]):
            return
    last = text.finish()
    if text.stopped:
        finish = Finish.STOP
    yield Delta(text=last, finish=finish, usage=Usage(len(job.prompt), produced, cached))


@contextmanager
def _sampler(model: NativeModel, request: ChatRequest) -> Iterator[Any]:
    library = model.library
    chain = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
    try:
        for sampler in _steps(model, request):
            library.llama_sampler_chain_add(chain, sampler)
        yield chain
    finally:
        library.llama_sampler_free(chain)


def _steps(model: NativeModel, request: ChatRequest) -> Iterator[Any]:
    library = model.library
    if request.frequency_penalty or request.presence_penalty:
        vocabulary = library.llama_vocab_n_tokens(model.vocab)
        yield library.llama_sampler_init_penalties(
            vocabulary, PENALTY_TOKENS, 1.0, request.frequency_penalty, request.presence_penalty
        )
    if request.temperature == 0:
        yield library.llama_sampler_init_greedy()
        return
    if request.top_p is None:
        yield library.llama_sampler_init_top_k(TOP_K)
        yield library.llama_sampler_init_min_p(MIN_P, 1)
    top_p = TOP_P if request.top_p is None else request.top_p
    yield library.llama_sampler_init_top_p(top_p, 1)
    yield library.llama_sampler_init_temp(TEMPERATURE if request.temperature is None else request.temperature)
    seed = randbits(31) if request.seed is None else request.seed & _SEED_MASK
    yield library.llama_sampler_init_dist(seed)
