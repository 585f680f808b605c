"""Which files of a repository or folder make one model: pure, by names alone.

A glob chooses, or several with | between them, such as one for a model and one for its projector. Without one there
must be exactly one model: one GGUF (or one set of its parts), or one set of safetensors weights at the top with what
engines read beside it. Pickle copies of the weights and the `original/` folders of repositories are never chosen
without a glob.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from rbee_runtime.brief import few
from rbee_runtime.errors import ModelStoreError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
"""Weights that are programs, or that only other frameworks read; usually a second copy of the safetensors."""

COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "*processor_config.json",
    "*.tiktoken",
    "spiece.model",
    "sentencepiece*.model",
    "tekken.json",
    "params.json",
)
"""What an engine reads beside weights that are no GGUF."""

MAX_NAMES = 100_000
"""Above any repository of models; all names are looked at at once."""

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\.gguf|\.safetensors|\.bin)")
_NOT_A_MODEL = re.compile(r"(^|[-_.])(mmproj|imatrix)", re.IGNORECASE)
_SHOWN = 12
"""Candidates named in a message; repositories of quantisations have dozens."""


def select(names: Sequence[str], *, glob: str = "", where: str) -> tuple[str, ...]:
    """Return the names of one model's files, sorted, or raise ModelStoreError naming the candidates at `where`."""
    if len(names) > MAX_NAMES:
        raise ModelStoreError(f"{where} has {len(names)} files; more than {MAX_NAMES} are not looked through")
    chosen = _by_glob(names, glob, where) if glob else _by_kind(names, where)
    _check_parts(chosen, where)
    return tuple(sorted(chosen))


def weight_sets(names: Iterable[str], ending: str) -> dict[str, list[str]]:
    """Return the files that end so, parts of one model together under the name that they share."""
    sets: dict[str, list[str]] = {}
    for name in sorted(names):
        if name.endswith(ending):
            part = _PART.fullmatch(name)
            sets.setdefault(part["stem"] if part else name.removesuffix(ending), []).append(name)
    return sets


def _by_glob(names: Sequence[str], glob: str, where: str) -> list[str]:
    chosen: list[str] = []
    for each in glob.split("|"):
        matching = [name for name in names if fnmatchcase(name, each)]
        if not matching:
            near = difflib.get_close_matches(each, names, n=3, cutoff=0.5) or _weights(names)
            raise ModelStoreError(f"{where} has no file that matches {each!r}; {_there_is(near)}")
        chosen += (name for name in matching if name not in chosen)
    models = _gguf_models(chosen)
    if len(models) > 1:
        raise ModelStoreError(
            f"{glob!r} matches {len(models)} models at {where}; choose one: {_shown(models, '.gguf')}"
        )
    if not models or any(name.endswith(".safetensors") for name in chosen):
        chosen += [name for name in _companions(names, chosen) if name not in chosen]
    return chosen


def _by_kind(names: Sequence[str], where: str) -> list[str]:
    ggufs = _gguf_models(names)
    safetensors = weight_sets((name for name in names if "/" not in name), ".safetensors")
    if ggufs and safetensors:
        raise ModelStoreError(
            f"{where} has both GGUF and safetensors weights; choose by a glob at the end of the source, "
            f"such as :*.safetensors or :{next(iter(ggufs.values()))[0]}"
        )
    if len(ggufs) > 1:
        raise ModelStoreError(
            f"{where} has {len(ggufs)} GGUF models; choose one by a glob at the end of the source, "
            f"such as :{next(iter(ggufs.values()))[0]}; there are {_shown(ggufs, '.gguf')}"
        )
    if ggufs:
        return next(iter(ggufs.values()))
    if not safetensors:
        raise ModelStoreError(_nothing(names, where))
    weights = _one_set(safetensors, where)
    return weights + _companions(names, weights)


def _gguf_models(names: Iterable[str]) -> dict[str, list[str]]:
    return weight_sets((name for name in names if not _NOT_A_MODEL.search(PurePosixPath(name).name)), ".gguf")


def _one_set(sets: dict[str, list[str]], where: str) -> list[str]:
    """`model` is the name that engines look for; consolidated copies and variants lie beside it."""
    if "model" in sets:
        return sets["model"]
    if len(sets) > 1:
        raise ModelStoreError(
            f"{where} has {len(sets)} sets of safetensors weights; choose one by a glob at the end of the source; "
            f"there are {_shown(sets, '.safetensors')}"
        )
    return next(iter(sets.values()))


def _companions(names: Iterable[str], weights: Sequence[str]) -> list[str]:
    """Return what lies beside weights that are no GGUF: their index, configuration and tokenizer."""
    endings = (".safetensors", *PICKLES)
    folders = {_folder(name) for name in weights if name.endswith(endings)}
    indexes = {f"{stem}{ending}.index.json" for ending in endings for stem in weight_sets(weights, ending)}
    return [name for name in names if name in indexes or (_folder(name) in folders and _is_companion(name))]


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _is_companion(name: str) -> bool:
    plain = PurePosixPath(name).name
    return not plain.endswith(PICKLES) and any(fnmatchcase(plain, pattern) for pattern in COMPANIONS)


def _check_parts(chosen: Sequence[str], where: str) -> None:
    """Refuse a set of which parts are missing, before the others are fetched."""
    sets: dict[tuple[str, str, str], set[str]] = {}
    for name in chosen:
        if part := _PART.fullmatch(name):
            sets.setdefault((part["stem"], part["count"], part["end"]), set()).add(part["number"])
    for (stem, count, end), numbers in sets.items():
        missing = [n for n in range(1, int(count) + 1) if f"{n:05d}" not in numbers]
        if missing:
            raise ModelStoreError(
                f"{where} lacks {len(missing)} of the {int(count)} parts of {stem}{end} "
                f"(part {missing[0]} first), or the glob leaves them out"
            )


def _nothing(names: Sequence[str], where: str) -> str:
    deeper = [name for name in names if name.endswith(".safetensors")]
    if deeper:
        return f"{where} has safetensors weights in folders only; choose by a glob, such as :{_folder(deeper[0])}/*"
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return (
            f"{where} has weights only in a form that can run programs ({pickles[0]}); use a source with safetensors "
            "or GGUF weights, or name the file by a glob and set store.allow_pickle"
        )
    return f"{where} has no model: neither GGUF nor safetensors files; {_there_is(list(names))}"


def _weights(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.endswith((".gguf", ".safetensors"))] or list(names)


def _there_is(names: Sequence[str]) -> str:
    if not names:
        return "there are no files at all"
    return f"there is {few(names, _SHOWN)}"


def _shown(sets: dict[str, list[str]], ending: str) -> str:
    names = [f"{stem}{ending}" if len(files) == 1 else f"{stem}-*{ending}" for stem, files in sets.items()]
    return few(names, _SHOWN)
