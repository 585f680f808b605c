"""Choose the next token: chains of llama.cpp's samplers, one for each answer.

Order as in llama.cpp's own programs: biases, penalties, then what narrows the choice, then the draw. A grammar is asked
about the token that was drawn; only if it refuses that one the whole vocabulary goes through it, which takes
milliseconds. One that can read a text in many ways takes several times longer with every character, without end, and C
cannot be stopped: so grammars are asked aside.
"""

import ctypes
from collections.abc import Callable
from secrets import randbits
from types import ModuleType
from typing import Any

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import Sampling, TokenLogprob
from rbee_runtime.worker.engines.llamacpp.aside import Aside, Call

TEMPERATURE, TOP_P, TOP_K, MIN_P = 0.8, 0.95, 40, 0.05
"""llama.cpp's own defaults, for what a client leaves open: OpenAI's (1.0 over the whole vocabulary) suit large models
only, a small one drifts into noise within some hundred tokens."""

PENALTY_TOKENS = 1024
"""How far back penalties look."""

_SEED_MASK = 0x7FFFFFFF
"""llama.cpp takes 32 bits, and all ones mean a random seed."""

_ROOT = b"root"

GRAMMAR_SECONDS = 3.0
"""Of a processor, for one token. A thousand choices take 0.2 s over a vocabulary of 49,000 tokens, which is long and
has an end; of what has none, every character takes several times longer than the one before."""

READ_SECONDS = 0.005
"""So long is waited for a grammar to be read, before its prompt is computed: most are in a tenth of that."""

PATIENCE_SECONDS = 0.05
"""So long a step waits for its grammars; answers whose grammars take longer are left out of steps until they are
through."""

THREADS = 3
"""In which grammars are asked; those without end take one each until the engine begins anew."""

MOST_STUCK = THREADS - 1
"""With so many of them nobody else's grammar is taken, so that answers that run have a thread."""


class Sampler:
    """Draws tokens for one answer from the logits of one context; `close` frees what C holds.

    What takes long is done aside: then there is no token yet.
    """

    def __init__(
        self,
        library: ModuleType,
        vocab: Any,
        sampling: Sampling,
        *,
        aside: Aside,
        prompt: list[int],
        choice: int,
    ) -> None:
        self._library = library
        self._vocab = vocab
        self._size = library.llama_vocab_n_tokens(vocab)
        self._aside = aside
        self._call: Call[int | None] | None = None
        self._left = False
        self._held_to = sampling.grammar
        self._grammar: Any = None
        self._copied: Any = None
        self._at: tuple[Any, int] = (None, 0)
        if self._held_to:
            # All choices of a request have the same one.
            self._begin(READ_SECONDS if choice == 0 else 0.0)
        self._chain = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        self._candidates: Any = None
        # The largest logit is found without a list of all candidates, which takes ten times as long.
        self.plain = sampling.temperature == 0 and not _changes_logits(sampling)
        self._largest = -1
        for step in _steps(library, self._size, sampling, prompt, choice):
            library.llama_sampler_chain_add(self._chain, step)

    @property
    def logits(self) -> Any:
        """Return the logits that the last token was drawn from, of the vocabulary's size."""
        return self._copied if self._held_to else _logits(self._library, *self._at, self._size)

    def ask(self, context: Any, output: int, largest: int) -> None:
        """Begin to draw a token from the logits of the step's token number `output`; `chosen` has it.

        `largest` is the likeliest one by these logits, for a sampler that is `plain`.
        """
        self._at = context, output
        self._largest = largest
        if self._held_to:
            # A copy: the next step may come before the grammar is through.
            self._copied = _logits(self._library, context, output, self._size).copy()
            self._call = self._call or self._aside.ask(self._choose)

    def chosen(self, seconds: float) -> int | None:
        """Return the token that was asked for, None if it is not there after so long; RequestError if it never will."""
        if not self._held_to:
            if self.plain:
                return self._largest
            return int(self._library.llama_sampler_sample(self._chain, *self._at))
        while self._call is not None:
            if not self._call.wait(seconds):
                self.demand_an_end()
                return None
            token, self._call = self._call.result, None
            if token is not None:
                return token
            # That was the grammar's beginning.
            self._call = self._aside.ask(self._choose)
        raise AssertionError("no token was asked for")

    def demand_an_end(self) -> None:
        """Raise RequestError if its grammar is none, takes too long, or waits for a thread that there never will be."""
        call = self._call
        if call is None:
            return
        if call.over:
            _ = call.result
        elif call.seconds > GRAMMAR_SECONDS:
            raise _too_slow()
        elif call.waiting and len(self._aside.stuck) >= self._aside.threads:
            raise _stuck()

    def close(self) -> None:
        """Free what C holds, as soon as nothing reads it."""
        self._left = True
        if self._call is None or not self._call.leave(self._free):
            self._free()

    def _begin(self, patience: float) -> None:
        """Have the grammar read; RequestError if it is none, and that is clear at once."""
        if len(self._aside.stuck) >= MOST_STUCK:
            raise _stuck()
        call: Call[int | None] = self._aside.ask(self._read)
        if call.wait(patience):
            _ = call.result
        else:
            self._call = call

    def _free(self) -> None:
        self._library.llama_sampler_free(self._chain)
        if self._grammar is not None:
            self._library.llama_sampler_free(self._grammar)

    def _read(self) -> None:
        """Have the grammar read, which takes longer with every rule that has the next one twice."""
        self._grammar = _grammar(self._library, self._vocab, self._held_to)

    def _choose(self) -> int | None:
        """Return a token that the grammar allows, and have it go on from there; None for nobody."""
        logits = self._copied
        token = self._largest if self.plain else self._draw(logits, by_grammar=False)
        if not self._allowed(token):
            if self._left:
                return None
            token = self._draw(logits, by_grammar=True)
            if self._left:
                return None
            if not self._allowed(token):
                # llama.cpp ends its process if it is given such a token.
                raise RequestError(
                    400, "the grammar or schema comes to a point where no token fits", code="grammar_dead_end"
                )
        if self._left:
            return None
        self._library.llama_sampler_accept(self._chain, token)
        self._library.llama_sampler_accept(self._grammar, token)
        return token

    def _draw(self, logits: Any, *, by_grammar: bool) -> int:
        array = self._filled(logits)
        if by_grammar:
            self._library.llama_sampler_apply(self._grammar, ctypes.byref(array))
        self._library.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _allowed(self, token: int) -> bool:
        one = (self._library.llama_token_data * 1)()
        one[0].id, one[0].logit, one[0].p = token, 1.0, 0.0
        array = self._library.llama_token_data_array(data=one, size=1, selected=-1, sorted=False)
        self._library.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(one[0].logit != float("-inf"))

    def _filled(self, logits: Any) -> Any:
        """Return all candidates with their logits; the memory is the sampler's and used again."""
        import numpy as np  # noqa: PLC0415 - in the engine artefact

        if self._candidates is None:
            self._candidates = (self._library.llama_token_data * self._size)()
        view = np.frombuffer(self._candidates, dtype=[("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        view["id"] = np.arange(self._size, dtype=np.int32)
        view["logit"] = logits
        view["p"] = 0
        return self._library.llama_token_data_array(data=self._candidates, size=self._size, selected=-1, sorted=False)


def _logits(library: ModuleType, context: Any, output: int, size: int) -> Any:
    """Return a view of a token's logits, of the vocabulary's size; it holds until the next step."""
    import numpy as np  # noqa: PLC0415 - in the engine artefact

    return np.ctypeslib.as_array(library.llama_get_logits_ith(context, output), (size,))


def _changes_logits(sampling: Sampling) -> bool:
    return bool(sampling.logit_bias or sampling.frequency_penalty or sampling.presence_penalty) or (
        sampling.repeat_penalty != 1.0
    )


def logprobs(logits: Any, *, token: int, top: int, piece_of: Callable[[int], bytes]) -> TokenLogprob:
    """Return the log probability of `token` and of the `top` likeliest by the model's own logits, samplers apart."""
    import numpy as np  # noqa: PLC0415 - in the engine artefact

    logits = logits.astype(np.float64)
    largest = logits.max()
    total = float(largest + np.log(np.exp(logits - largest).sum()))
    best = np.argpartition(logits, -top)[-top:] if top else np.empty(0, dtype=np.int64)
    ranked = best[np.argsort(-logits[best], kind="stable")]
    others = tuple((piece_of(int(each)), float(logits[each]) - total) for each in ranked)
    return TokenLogprob(piece_of(token), float(logits[token]) - total, others)


def _too_slow() -> RequestError:
    message = (
        f"the grammar or schema takes more than {GRAMMAR_SECONDS:g} s of a processor for one token: it can read the "
        "same text in too many ways, or has too many choices in one place"
    )
    return RequestError(400, message, code="grammar_too_slow")


def _stuck() -> RequestError:
    # Not 503: that would be this worker's failure, with plain requests and everywhere.
    message = "grammars of earlier requests that have no end are still computed; the engine begins anew soon, ask again"
    return RequestError(429, message, kind="rate_limit_error", code="grammars_stuck", retry_after=5)


def _grammar(library: ModuleType, vocab: Any, text: str) -> Any:
    grammar = library.llama_sampler_init_grammar(vocab, text.encode(), _ROOT)
    if not grammar:
        raise RequestError(
            400,
            "the grammar cannot be read; it has to be GBNF, with every rule defined and one of them named root",
            param="grammar",
        )
    return grammar


def _steps(library: ModuleType, size: int, sampling: Sampling, prompt: list[int], choice: int) -> list[Any]:
    steps = []
    if sampling.logit_bias:
        biases = (library.llama_logit_bias * len(sampling.logit_bias))(
            *(library.llama_logit_bias(token=token, bias=bias) for token, bias in sampling.logit_bias)
        )
        steps.append(library.llama_sampler_init_logit_bias(size, len(biases), biases))
    steps += _penalties(library, size, sampling, prompt)
    if sampling.temperature == 0:
        return [*steps, library.llama_sampler_init_greedy()]
    steps += _narrowing(library, sampling)
    steps.append(library.llama_sampler_init_temp(TEMPERATURE if sampling.temperature is None else sampling.temperature))
    seed = randbits(31) if sampling.seed is None else (sampling.seed + choice) & _SEED_MASK
    return [*steps, library.llama_sampler_init_dist(seed)]


def _penalties(library: ModuleType, size: int, sampling: Sampling, prompt: list[int]) -> list[Any]:
    steps = []
    if sampling.repeat_penalty != 1.0:
        # Counts the prompt too, as everywhere; OpenAI's two count the answer alone.
        repeated = library.llama_sampler_init_penalties(size, PENALTY_TOKENS, sampling.repeat_penalty, 0.0, 0.0)
        for token in prompt[-PENALTY_TOKENS:]:
            library.llama_sampler_accept(repeated, token)
        steps.append(repeated)
    if sampling.frequency_penalty or sampling.presence_penalty:
        steps.append(
            library.llama_sampler_init_penalties(
                size, PENALTY_TOKENS, 1.0, sampling.frequency_penalty, sampling.presence_penalty
            )
        )
    return steps


def _narrowing(library: ModuleType, sampling: Sampling) -> list[Any]:
    """Return the samplers that leave the likely tokens; whoever names one of the three means no others."""
    named = (sampling.top_k, sampling.top_p, sampling.min_p)
    top_k, top_p, min_p = (TOP_K, TOP_P, MIN_P) if named == (None, None, None) else named
    steps = []
    if top_k:
        steps.append(library.llama_sampler_init_top_k(top_k))
    if top_p is not None and top_p < 1:
        steps.append(library.llama_sampler_init_top_p(top_p, 1))
    if min_p:
        steps.append(library.llama_sampler_init_min_p(min_p, 1))
    return steps
