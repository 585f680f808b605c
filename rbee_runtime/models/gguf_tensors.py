"""The tensors of a GGUF file: their types, shapes and places in the data section."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from rbee_runtime.models.cursor import Cursor

MAX_NAME = 64
MAX_DIMENSIONS = 4
"""Both by the specification."""

MAX_ELEMENTS = (1 << 63) - 1
"""ggml counts in signed 64-bit numbers; a product beyond it is what overflows there."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """How elements are stored: `size` bytes for each `block` elements of a row."""

    name: str
    block: int
    size: int


TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
}
"""By ggml's numbers. Q8_1 (9) exists in memory only; the missing numbers belong to layouts that ggml gave up."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of `size` bytes at `offset` from the start of the data section; the first dimension is the row."""

    name: str
    kind: TensorType
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def elements(self) -> int:
        """Return how many numbers it holds."""
        return math.prod(self.shape)


_COUNT = struct.Struct("<I")
_PLACE = struct.Struct("<IQ")
_SHAPES = tuple(struct.Struct(f"<{count}Q") for count in range(MAX_DIMENSIONS + 1))


def read_tensor(cursor: Cursor) -> Tensor:
    """Return the tensor described at the cursor or raise ModelFormatError."""
    name = cursor.text(MAX_NAME, "a tensor name")
    if not name or not name.isprintable():
        raise cursor.bad(f"is damaged: {name!r} is not a tensor name")
    count = cursor.number(_COUNT)
    if count > MAX_DIMENSIONS:
        raise cursor.bad(f"is damaged: tensor {name} has {count} dimensions, at most {MAX_DIMENSIONS} exist")
    shape = tuple([int(length) for length in cursor.take(_SHAPES[count])])
    number, offset = (int(value) for value in cursor.take(_PLACE))
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        raise cursor.bad(f"has tensor {name} of the unknown type {number}; it needs a newer rbee or was damaged")
    return Tensor(name, kind, shape, offset, _size(cursor, name, kind, shape))


def _size(cursor: Cursor, name: str, kind: TensorType, shape: tuple[int, ...]) -> int:
    elements = math.prod(shape)
    if not 0 < elements <= MAX_ELEMENTS:
        raise cursor.bad(f"is damaged: tensor {name} has the impossible shape {_shown(shape)}")
    row = shape[0] if shape else 1
    if row % kind.block:
        raise cursor.bad(
            f"is damaged: tensor {name} has rows of {row} elements, {kind.name} stores {kind.block} together"
        )
    return elements // kind.block * kind.size


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def check_layout(cursor: Cursor, tensors: Sequence[Tensor], *, data: int, size: int, alignment: int) -> None:
    """Raise ModelFormatError unless every tensor lies aligned and alone between byte `data` and the file's end."""
    end, before = 0, ""
    for tensor in sorted(tensors, key=attrgetter("offset")):
        if tensor.offset % alignment:
            raise cursor.bad(
                f"is damaged: tensor {tensor.name} begins at {tensor.offset}, not on a multiple of {alignment}"
            )
        if tensor.offset < end:
            raise cursor.bad(f"is damaged: tensors {before} and {tensor.name} overlap")
        end, before = tensor.offset + tensor.size, tensor.name
    if data + end > size:
        raise cursor.bad(f"is cut off: tensor {before} ends at byte {data + end} of {size}; fetch it again")
