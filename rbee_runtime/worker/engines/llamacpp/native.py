"""One model and its context in llama.cpp: load, tokenise, decode a step of many sequences.

Not safe for use from two threads, except `tokens_of`, which only reads the vocabulary.
"""

import ctypes
import os
import re
import sys
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from types import ModuleType
from typing import Any, cast

from rbee_runtime.errors import EngineCrashedError, EngineLoadError
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import Progress, threads
from rbee_runtime.worker.engines.llamacpp.arrays import Batch
from rbee_runtime.worker.engines.llamacpp.batching import Entry
from rbee_runtime.worker.engines.llamacpp.wire import Load
from rbee_runtime.worker.engines.options import Task

_ALL_LAYERS = 999

_FLASH = {"auto": -1, "off": 0, "on": 1}
"""llama.h's llama_flash_attn_type."""

_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}
"""ggml.h's ggml_type; the binding lacks the last one."""

POOLING = {"mean": 1, "cls": 2, "last": 3, "rank": 4}
"""llama.h's llama_pooling_type; 0 is none."""

MOST_COPIED_BYTES = 256 << 20
"""At a time, through main memory, while everybody waits."""

MOST_TEXTS = 64
"""Texts of one step of embedding: shorter ones than 8 tokens are rare, and each takes a sequence of its context."""

_WARN, _ERROR = 3, 4
"""ggml.h's levels; the binding's comments show an older numbering."""

_NO_MEMORY = re.compile(r"out of memory|(cannot|failed to|unable to) alloc|alloc\w* failed|bad_alloc", re.IGNORECASE)

_EASY = 8
"""Characters per cell of context: texts up to there are tokenised, whether they fit or not."""

_OF_A_POOL = "possible training context overflow"
"""A warning that takes the cells of all slots for those of one; which slot gets how many is ours to see to."""

_CALLBACKS: list[Any] = []
"""llama.cpp keeps a pointer to the log callback for the life of the process."""


class Abort:
    r"""A flag that llama.cpp reads between the nodes of a graph, so that a step of seconds ends within milliseconds.

    The callback is libc's strlen over two bytes, "\x01\0" or "\0\0": a Python callback would take the interpreter
    lock thousands of times per token.
    """

    def __init__(self) -> None:
        self._flag = ctypes.create_string_buffer(2)
        self.function = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p)
        self.data = ctypes.addressof(self._flag)

    def set(self, value: bool) -> None:
        """Ask for the running step to end, or allow the next one."""
        self._flag[0] = b"\x01" if value else b"\x00"

    @property
    def is_set(self) -> bool:
        """Say whether an end was asked for."""
        return self._flag[0] == b"\x01"


class NativeLog:
    """Takes llama.cpp's log: warnings and errors go on to stderr, the last ones explain a failed load.

    What it says about a step that we ended ourselves is no error and is dropped.
    """

    def __init__(self, library: ModuleType, abort: Abort) -> None:
        self._abort = abort
        self._errors: deque[str] = deque(maxlen=20)
        callback = library.llama_log_callback(self._take)
        _CALLBACKS.append(callback)
        library.llama_log_set(callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", "replace").strip()
        if level in (_WARN, _ERROR) and line and _OF_A_POOL not in line and not self._abort.is_set:
            if level == _ERROR:
                self._errors.append(line)
            sys.stderr.write(f"llama.cpp: {line}\n")

    def failure(self, what: str) -> EngineLoadError:
        """Return the error for a failed step of loading, its reason guessed from what llama.cpp said."""
        lack = next((line for line in self._errors if _NO_MEMORY.search(line)), None)
        if lack is not None:
            hint = "give the host more memory, or the model a smaller context"
            return EngineLoadError(f"{what}: {lack}; {hint}", reason=ExitReason.OUT_OF_MEMORY)
        # The first error is the cause, the later ones are its consequences.
        said = self._errors[0] if self._errors else "it gave no reason"
        return EngineLoadError(f"{what}: {said}", reason=ExitReason.BAD_MODEL)


class Outcome(StrEnum):
    """How a step went: computed, ended by the abort flag, or no cells were left for it."""

    DONE = "done"
    ABORTED = "aborted"
    NO_ROOM = "no_room"


_OUTCOMES = {0: Outcome.DONE, 1: Outcome.NO_ROOM, 2: Outcome.ABORTED}


class NativeModel:
    """A loaded model, its context of several sequences, and the batch that steps are written into.

    `pooled` is that all sequences have their cells in one pool, where they can share them without copying; else each
    has a stream of its own, and looks at no other's.
    """

    def __init__(self, library: ModuleType, model: Any, context: Any, abort: Abort, *, pooled: bool) -> None:
        self.library = library
        self.pooled = pooled
        self.model = model
        self.context = context
        self.abort = abort
        self.vocab = library.llama_model_get_vocab(model)
        self.vocabulary: int = library.llama_vocab_n_tokens(self.vocab)
        self._memory = library.llama_get_memory(context)
        self._batch = Batch(library, library.llama_n_batch(context))
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._address, self._rows = 0, cast("Any", ())
        self._bos: str | None = None
        self._longest: int | None = None
        self._windowed = library.llama_model_n_swa(model) > 0
        self._width: int = library.llama_model_n_embd_out(model)
        self.trained: int = library.llama_model_n_ctx_train(model)

    @property
    def cells(self) -> int:
        """Return how many tokens the context holds at most, all sequences together."""
        return int(self.library.llama_n_ctx(self.context))

    @property
    def shares(self) -> bool:
        """Say whether cells can be copied between sequences.

        Recurrent state cannot be cut at a token, and layers with a sliding window forget what is before it.
        """
        library, model = self.library, self.model
        recurrent = library.llama_model_is_recurrent(model) or library.llama_model_is_hybrid(model)
        return not recurrent and not self._windowed

    @property
    def template(self) -> str | None:
        """Return the chat template of the model file."""
        source = self.library.llama_model_chat_template(self.model, None)
        return source.decode("utf-8", "replace") if source is not None else None

    @property
    def bos(self) -> str:
        """Return the text of the token that begins a sequence ("" if the vocabulary has none)."""
        if self._bos is None:
            self._bos = self._text_of(self.library.llama_vocab_bos(self.vocab))
        return self._bos

    @property
    def eos(self) -> str:
        """Return the text of the token that ends a sequence ("" if the vocabulary has none)."""
        return self._text_of(self.library.llama_vocab_eos(self.vocab))

    def tokens_of(self, text: str, *, begin: bool = True) -> list[int]:
        """Return a rendered prompt as tokens; if it is the beginning, with the beginning-of-sequence token once."""
        raw = text.encode("utf-8", "replace")
        add_special = begin and not (self.bos and text.startswith(self.bos))
        room = len(raw) + 8
        buffer = (self.library.llama_token * room)()
        count = self.library.llama_tokenize(self.vocab, raw, len(raw), buffer, room, add_special, True)
        if count < 0:
            # Some vocabularies make more characters of one before they look for tokens.
            room = -count
            buffer = (self.library.llama_token * room)()
            count = self.library.llama_tokenize(self.vocab, raw, len(raw), buffer, room, add_special, True)
        return list(buffer[: max(0, count)])

    def special(self, texts: Sequence[str]) -> dict[int, bytes]:
        """Return those of these texts that are one token each, by token."""
        found = ((self.tokens_of(text, begin=False), text) for text in texts)
        return {tokens[0]: text.encode() for tokens, text in found if len(tokens) == 1}

    def fewest_tokens(self, text: str) -> int:
        """Return a number of tokens that `text` has at least; 0 for texts that are no trouble to tokenise."""
        if len(text) <= _EASY * self.cells:
            return 0
        if self._longest is None:
            pieces = (len(self._text_of(token).encode()) for token in range(self.vocabulary))
            self._longest = max(1, max(pieces, default=1))
        return len(text) // self._longest

    def piece_of(self, token: int) -> bytes:
        """Return the bytes of a token; control tokens have none."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token, 64)
        return piece

    def ends(self, token: int) -> bool:
        """Say whether a token ends the answer."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(self.library.llama_vocab_is_eog(self.vocab, token))
        return known

    def keep(self, slot: int, count: int) -> int:
        """Drop all but the first `count` tokens of a sequence and return how many are left."""
        end = self.library.llama_memory_seq_pos_max(self._memory, slot) + 1 if self._windowed else count
        if end == count and self.library.llama_memory_seq_rm(self._memory, slot, count, -1):
            return count
        self.library.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return 0

    def copy(self, source: int, target: int, count: int) -> bool:
        """Let an empty sequence begin with the first `count` tokens of another; in a pool no data moves.

        False, and it is still empty, where so much would have to be copied that computing is as well.
        """
        if self.pooled:
            self.library.llama_memory_seq_cp(self._memory, source, target, 0, count)
            return True
        if self.size(source) > MOST_COPIED_BYTES or not self.load(target, self.save(source)):
            return False
        return self.keep(target, count) == count

    def size(self, slot: int) -> int:
        """Return how many bytes the state of a sequence has."""
        return int(self.library.llama_state_seq_get_size(self.context, slot))

    def save(self, slot: int) -> Any:
        """Return the state of a sequence as bytes in C's layout."""
        buffer = (ctypes.c_uint8 * self.size(slot))()
        self.library.llama_state_seq_get_data(self.context, buffer, len(buffer), slot)
        return buffer

    def load(self, slot: int, state: Any) -> bool:
        """Fill an empty sequence with a state that was saved; False, and empty, if it finds no room."""
        if self.library.llama_state_seq_set_data(self.context, state, len(state), slot):
            return True
        self.library.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def largest(self, rows: int) -> list[int]:
        """Return the likeliest token of each of the last step's `rows` outputs, in their order."""
        logits = self.library.llama_get_logits(self.context)
        address = ctypes.addressof(logits.contents)
        if address != self._address or rows > len(self._rows):
            # Made anew only where llama.cpp has moved them: that takes as long as looking for the largest.
            self._address, self._rows = address, _view(logits, (rows, self.vocabulary))
        likeliest: list[int] = self._rows[:rows].argmax(1).tolist()
        return likeliest

    def decode(self, entries: Sequence[Entry]) -> Outcome:
        """Run one step, or raise EngineCrashedError if llama.cpp cannot go on."""
        return self._run(self._batch.fill(entries), len(entries))

    def embed(self, texts: Sequence[Sequence[int]]) -> Outcome:
        """Compute whole texts, each by itself, or raise EngineCrashedError if llama.cpp cannot go on."""
        if self._memory:
            self.library.llama_memory_clear(self._memory, False)
        return self._run(self._batch.fill_texts(texts), len(texts))

    def vector(self, text: int) -> list[float]:
        """Return the vector of a text of the last step."""
        values = self.library.llama_get_embeddings_seq(self.context, text)
        if not values:
            raise EngineCrashedError("llama.cpp gave no vector for a text")
        return list(values[: self._width])

    def _run(self, batch: Any, sequences: int) -> Outcome:
        status = self.library.llama_decode(self.context, batch)
        if status in _OUTCOMES:
            # What is measured of a step is all of it, on a GPU too.
            self.library.llama_synchronize(self.context)
            return _OUTCOMES[status]
        raise EngineCrashedError(f"llama.cpp stopped in a step of {sequences} sequences with status {status}")

    def _piece(self, token: int, room: int) -> bytes:
        buffer = ctypes.create_string_buffer(room)
        count = self.library.llama_token_to_piece(self.vocab, token, buffer, room, 0, False)
        return buffer.raw[:count] if count >= 0 else self._piece(token, -count)

    def _text_of(self, token: int) -> str:
        if token < 0:
            return ""
        text: bytes = self.library.llama_vocab_get_text(self.vocab, token)
        return text.decode("utf-8", "replace")


def _view(numbers: Any, shape: tuple[int, int]) -> Any:
    """Return numbers of C as rows, where they are."""
    import numpy as np  # noqa: PLC0415 - in the engine artefact

    return np.ctypeslib.as_array(numbers, shape)


def load(order: Load, *, task: Task, progress: Progress, abort: Abort) -> NativeModel:
    """Return the model with room for the slots that are ordered, or raise EngineLoadError."""
    library = _library()
    log = NativeLog(library, abort)
    library.llama_backend_init()
    options = library.llama_model_default_params()
    options.n_gpu_layers = _ALL_LAYERS if order.gpu_layers is None else order.gpu_layers
    report = library.llama_progress_callback(lambda share, _: _report(progress, share, abort))
    options.progress_callback = report
    shares = (ctypes.c_float * max(library.llama_max_devices(), len(order.shares)))(*order.shares)
    if order.shares:
        options.tensor_split = shares
    model = library.llama_model_load_from_file(os.fsencode(order.path), options)
    if model is None:
        raise log.failure(f"llama.cpp cannot load {order.path}")
    trained: int = library.llama_model_n_ctx_train(model)
    # Beyond what it was trained for a model answers nonsense without any error.
    context = min(order.context, trained) if trained > 0 else order.context
    settings = _context_options(library, order, abort)
    settings.kv_unified = task is Task.EMBED or not on_processor(library, order)
    (_of_vectors if task is Task.EMBED else _of_text)(settings, order, context)
    handle = library.llama_init_from_model(model, settings)
    if handle is None:
        library.llama_model_free(model)
        slots = f"{order.slots} x " if order.slots > 1 else ""
        raise log.failure(f"llama.cpp cannot make a context of {slots}{context} tokens for {order.path}")
    return NativeModel(library, model, handle, abort, pooled=bool(settings.kv_unified))


def _report(progress: Progress, share: float, abort: Abort) -> bool:
    progress(share)
    return not abort.is_set


def on_processor(library: ModuleType, order: Load) -> bool:
    """Say whether all of the model is computed on the processor."""
    return order.gpu_layers == 0 or not library.llama_supports_gpu_offload()


def _of_text(options: Any, order: Load, context: int) -> None:
    options.n_ctx = context * order.slots
    options.n_batch = options.n_ubatch = order.batch
    options.n_seq_max = options.n_outputs_max = order.slots


def _of_vectors(options: Any, order: Load, context: int) -> None:
    # A text is computed in one piece, and none is kept.
    options.n_ctx = options.n_batch = options.n_ubatch = max(order.batch, context)
    options.n_seq_max = MOST_TEXTS
    options.embeddings = True
    options.pooling_type = POOLING[order.pooling]


def _context_options(library: ModuleType, order: Load, abort: Abort) -> Any:
    options = library.llama_context_default_params()
    options.n_threads = options.n_threads_batch = order.threads
    options.flash_attn_type = _FLASH[order.flash_attention]
    options.type_k = options.type_v = _TYPES[order.kv_type]
    options.abort_callback = ctypes.cast(abort.function, library.ggml_abort_callback)
    options.abort_callback_data = abort.data
    return options


def _library() -> ModuleType:
    # libgomp reads it once, when it is loaded.
    os.environ.update(threads.waits())
    try:
        import llama_cpp  # noqa: PLC0415 - lives in an engine artefact that is on the path only in a worker
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineLoadError(
            f"llama-cpp-python cannot be loaded: {error}; run the deploy again to stage it, or give --engine-dir with "
            "one of /opt/rbee/engines or ~/.local/share/rbee/engines",
            reason=ExitReason.ENGINE_MISSING,
        ) from error
    return cast("ModuleType", llama_cpp)
