"""A GGUF model in several files: `<stem>-00001-of-0000N.gguf`, each saying in its metadata which part it is.

The first part carries the metadata of the model; engines are given its name and find the others by theirs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rbee_runtime.errors import ModelFormatError
from rbee_runtime.models.gguf import GgufFile

MAX_PARTS = 9999

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class _Part:
    stem: str
    number: int
    count: int
    file: GgufFile


def gather(files: Sequence[GgufFile]) -> list[tuple[GgufFile, ...]]:
    """Return the models that the files are, each as its parts in order, or raise ModelFormatError naming what lacks."""
    models: dict[str, list[_Part]] = {}
    for file in files:
        part = _part(file)
        models.setdefault(part.stem, []).append(part)
    return [_complete(parts) for _, parts in sorted(models.items())]


def _part(file: GgufFile) -> _Part:
    count = file.metadata.get("split.count", 1)
    if not isinstance(count, int) or not 0 < count <= MAX_PARTS:
        raise ModelFormatError(f"{file.name} is damaged: it says that its model has {str(count)[:40]} parts")
    if count == 1:
        return _Part(file.name, 1, 1, file)
    number = file.metadata.get("split.no")
    named = _NAME.fullmatch(file.name)
    if not isinstance(number, int) or not 0 <= number < count:
        raise ModelFormatError(f"{file.name} is damaged: it says that it is part {str(number)[:40]} of {count}")
    if named is None or (int(named["number"]), int(named["count"])) != (number + 1, count):
        raise ModelFormatError(
            f"{file.name} is part {number + 1} of {count}; name it like "
            f"model-{number + 1:05}-of-{count:05}.gguf, which is how engines find the others"
        )
    return _Part(named["stem"], number + 1, count, file)


def _complete(parts: Sequence[_Part]) -> tuple[GgufFile, ...]:
    ordered = sorted(parts, key=lambda part: part.number)
    first = ordered[0]
    if any(part.count != first.count for part in ordered):
        raise ModelFormatError(f"{first.stem} has parts that disagree on how many there are; fetch them again")
    numbers = [part.number for part in ordered]
    lack = sorted(set(range(1, first.count + 1)) - set(numbers))
    if lack:
        raise ModelFormatError(
            f"{first.stem} lacks part {lack[0]} of {first.count} "
            f"({first.stem}-{lack[0]:05}-of-{first.count:05}.gguf); fetch all parts"
        )
    if len(numbers) > first.count:
        raise ModelFormatError(f"{first.stem} has a part twice; name each file once")
    files = tuple(part.file for part in ordered)
    _check_tensors(first.stem, files)
    return files


def _check_tensors(stem: str, files: Sequence[GgufFile]) -> None:
    names = [tensor.name for file in files for tensor in file.tensors]
    if len(set(names)) < len(names):
        raise ModelFormatError(f"{stem} is damaged: a tensor is in more than one part")
    expected = files[0].metadata.get("split.tensors.count", len(names))
    if len(files) > 1 and expected != len(names):
        raise ModelFormatError(
            f"{stem} is damaged: its parts hold {len(names)} tensors, it says {str(expected)[:40]}; fetch them again"
        )
    if not names:
        raise ModelFormatError(f"{stem} holds no tensors; it is a vocabulary or was damaged")
