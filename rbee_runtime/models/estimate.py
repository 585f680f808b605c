"""How much memory a model will take, from its files alone: before it is loaded, often before it is downloaded.

General sizing rules, not an engine's own count: the hive corrects the result by what it measures. Headroom is not in
it, that is for whoever places. Cache and buffers agree with what llama.cpp b-series builds of 2026 report for
themselves (SmolLM2-135M: cache equal, buffers at most 8 % above).
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction

from rbee_runtime.errors import EngineLoadError
from rbee_runtime.models.facts import ModelFacts
from rbee_runtime.states import ExitReason

GIB = 1024**3
MIB = 1024**2

DEVICE_CONTEXT = 512 * MIB
"""What the driver takes per process and GPU; 0.3 to 0.6 GiB are seen with CUDA."""

PROCESS = 96 * MIB
"""The worker's own interpreter and libraries, which count where the model is in main memory."""

CELLS = 256
"""llama.cpp rounds a context up to a multiple of this."""

MASK_BYTES = 4
"""Which tokens see which: one value per pair, where a step is long enough for that to count."""

STATE_BYTES = 4
"""Recurrent state is kept in f32."""


class CacheType(StrEnum):
    """Element types of attention's cache, by the engines' names."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    FP8 = "fp8"
    Q8_0 = "q8_0"
    Q5_1 = "q5_1"
    Q5_0 = "q5_0"
    Q4_1 = "q4_1"
    Q4_0 = "q4_0"


ELEMENT_BYTES = {
    CacheType.F32: Fraction(4),
    CacheType.F16: Fraction(2),
    CacheType.BF16: Fraction(2),
    CacheType.FP8: Fraction(1),
    CacheType.Q8_0: Fraction(34, 32),
    CacheType.Q5_1: Fraction(24, 32),
    CacheType.Q5_0: Fraction(22, 32),
    CacheType.Q4_1: Fraction(20, 32),
    CacheType.Q4_0: Fraction(18, 32),
}
"""Bytes per element; the quantised ones store 32 elements with their scale."""


@dataclass(frozen=True)
class Habits:
    """How an engine uses memory: `batch` tokens per step, `logits` whether it keeps them for each of these.

    `full_windows` caches the whole context in windowed layers too; `by_heads` divides layers among devices by heads
    (tensor parallelism) instead of giving each device whole layers; `graphs` is bytes for recorded GPU graphs.
    """

    batch: int
    logits: bool
    activation_bytes: int
    full_windows: bool = False
    by_heads: bool = False
    graphs: int = 0


LLAMA_SERVER = Habits(batch=512, logits=True, activation_bytes=4)
ENGINES = {
    # llama.cpp's library keeps whole windows unless told otherwise; its server tells it otherwise.
    "llama-cpp": Habits(batch=512, logits=True, activation_bytes=4, full_windows=True),
    "llama-server": LLAMA_SERVER,
    # 1 to 3 GiB of graphs are seen.
    "vllm": Habits(batch=8192, logits=False, activation_bytes=2, by_heads=True, graphs=2 * GIB),
}
"""By the names of worker engines; others are taken for llama-server."""


@dataclass(frozen=True)
class Settings:
    """How a worker is told to compute: the type of its cache, and tokens per step (0: as its engine has it).

    `whole` says that a text is computed in one step, however long, and nothing of it is kept; in llama-cpp there is one
    context for that, whatever the slots.
    """

    cache: CacheType = CacheType.F16
    batch: int = 0
    whole: bool = False


@dataclass(frozen=True)
class Estimate:
    """Bytes that one device must have free (of `devices` that share the model evenly)."""

    weights: int
    kv: int
    state: int
    buffers: int
    overhead: int
    context: int
    slots: int
    cache: CacheType
    devices: int = 1

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        return self.weights + self.kv + self.state + self.buffers + self.overhead

    def explain(self) -> str:
        """Return one line for people: the parts and their sum."""
        parts = [f"weights {_gib(self.weights)}", f"cache {_gib(self.kv)} ({self._cache()})"]
        parts += [f"state {_gib(self.state)}"] if self.state else []
        parts += [f"buffers {_gib(self.buffers)}", f"overhead {_gib(self.overhead)}"]
        each = f" on each of {self.devices} devices" if self.devices > 1 else ""
        return f"{' + '.join(parts)} = {_gib(self.total)} GiB{each}"

    def _cache(self) -> str:
        slots = f" x {self.slots} slots" if self.slots > 1 else ""
        return f"{self.context} tokens{slots}, {self.cache}"


def memory(
    facts: ModelFacts,
    *,
    context: int,
    slots: int = 1,
    engine: str = "llama-cpp",
    unified: bool = False,
    accelerated: bool = True,
    devices: int = 1,
    settings: Settings = Settings(),
) -> Estimate:
    """Return what a worker takes on each of its devices.

    `context` is tokens per slot, or of all slots together where the cache is one `unified` pool; beyond what the
    model was trained for it is cut, as engines do. `accelerated` is False where the model is in main memory.
    """
    habits = ENGINES.get(engine, LLAMA_SERVER)
    tokens = min(context, facts.context_length) if facts.context_length else context
    rows = habits.batch if habits.logits else slots
    habits = replace(habits, batch=max(settings.batch or habits.batch, tokens if settings.whole else 0))
    if settings.whole:
        slots, rows = 1 if engine == "llama-cpp" else slots, _whole_rows(facts, habits.batch)
    each = DEVICE_CONTEXT + habits.graphs if accelerated else PROCESS
    kv = kv_bytes(facts, context=tokens, slots=slots, cache=settings.cache, habits=habits, unified=unified)
    if settings.whole and not facts.causal:
        # An encoder sees a text at once and has no cache.
        kv = 0
    return Estimate(
        weights=_weights_share(facts, habits, devices),
        kv=_kv_share(facts, habits, devices, kv),
        state=_ceil(Fraction(facts.state * STATE_BYTES * slots, devices)),
        buffers=_buffers(facts, habits, rows) + (habits.batch**2 * MASK_BYTES if settings.whole else 0),
        overhead=each,
        context=tokens,
        slots=slots,
        cache=settings.cache,
        devices=devices,
    )


def kv_bytes(
    facts: ModelFacts, *, context: int, slots: int, cache: CacheType, habits: Habits, unified: bool = False
) -> int:
    """Return the bytes of attention's cache on all devices together."""
    pools, sequences = (1, slots) if unified else (slots, 1)
    full = _ceil(Fraction(context, CELLS)) * CELLS
    windows = facts.windows if len(facts.windows) == len(facts.cached) else (0,) * len(facts.cached)
    values = 0
    for cached, window in zip(facts.cached, windows, strict=True):
        narrow = window * sequences + habits.batch
        cells = min(full, narrow) if window and not habits.full_windows else full
        values += cached * cells * pools
    return _ceil(values * ELEMENT_BYTES[cache])


def utilisation(estimate: Estimate, total: int, free: int) -> float:
    """Return the share of a GPU of `total` bytes to give to vLLM, of which `free` bytes are free now.

    The share is of the whole card and vLLM refuses to start where less is free: EngineLoadError then.
    """
    # Thousandths, rounded up: vLLM multiplies it with the total again.
    share = Fraction(_ceil(Fraction(estimate.total * 1000, total)), 1000)
    if share * total > free:
        raise EngineLoadError(
            f"the model needs {_gib(estimate.total)} GiB of the device's {_gib(total)}, but {_gib(free)} are free "
            f"({estimate.explain()}); give it a smaller context or fewer slots, or free the device",
            reason=ExitReason.OUT_OF_MEMORY,
        )
    return float(share)


def _weights_share(facts: ModelFacts, habits: Habits, devices: int) -> int:
    # Dividing by heads leaves each device a token embedding; whole layers leave one device the rest of the division.
    copied = facts.embedding_bytes if habits.by_heads and devices > 1 else 0
    return (
        _ceil((facts.weights_bytes - copied) * _share(facts.layers, habits, devices)) + copied + facts.projector_bytes
    )


def _kv_share(facts: ModelFacts, habits: Habits, devices: int, kv: int) -> int:
    if not habits.by_heads:
        return _ceil(kv * _share(facts.layers, habits, devices))
    if facts.latent:
        return kv
    heads = max(facts.kv_heads, default=0) or 1
    return _ceil(Fraction(kv * max(1, _ceil(Fraction(heads, devices))), heads))


def _share(layers: int, habits: Habits, devices: int) -> Fraction:
    if habits.by_heads or not layers:
        return Fraction(1, devices)
    return Fraction(_ceil(Fraction(layers, devices)), layers)


def _buffers(facts: ModelFacts, habits: Habits, logits: int) -> int:
    rows = habits.batch * 2 * (facts.embedding + facts.feed_forward) * habits.activation_bytes
    # Samplers work in f32, whatever the activations are.
    return rows + logits * facts.vocabulary * 4


def _whole_rows(facts: ModelFacts, batch: int) -> int:
    """Return the rows of logits where texts are computed whole.

    llama.cpp reserves them for every token though nobody asks for them, and models of text compute them as well.
    """
    return 2 * batch if facts.causal else batch


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def _gib(count: int) -> str:
    return f"{count / GIB:.2f}" if count < 10 * GIB else f"{count / GIB:.1f}"
