"""How inventory constructors check what they are given: known names, then one check per value, then one sentence."""

import dataclasses
import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from rbee_deploy.errors import InventoryError

T = TypeVar("T")
Check = Callable[[Any], Any]
"""Takes what the inventory says, returns the value to keep, or raises ValueError saying what the value must be."""


class UnfitError(ValueError):
    """A value does not fit its field; the text says what would."""


class ExposedError(UnfitError):
    """A value that no sentence may repeat: a secret that stands in the inventory, or what is too long for one."""


_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_ADDRESS = re.compile(r"[A-Za-z0-9:._%-]{1,253}")


def setting(check: Check, **options: Any) -> Any:
    """Return a dataclass field whose value goes through `check`."""
    return dataclasses.field(metadata={"check": check}, **options)


def construct(cls: type[T], kind: str, name: object, extra: tuple[object, ...], given: Mapping[str, object]) -> T:
    """Return a checked `cls`; anything wrong raises InventoryError naming `kind`, `name` and the field."""
    where, known = f"{kind} {name!r}", [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type] # T is a dataclass
    if extra:
        raise InventoryError(f"{where}: fields are given by name, such as {kind}({name!r}, {known[1]}=…)")
    return _built(cls, where, {"name": name, **given})


def construct_nameless(cls: type[T], kind: str, extra: tuple[object, ...], given: Mapping[str, object]) -> T:
    """Return a checked `cls` of which an inventory needs no name; anything wrong raises InventoryError."""
    if extra:
        first = dataclasses.fields(cls)[0].name  # type: ignore[arg-type] # T is a dataclass
        raise InventoryError(f"{kind}: fields are given by name, such as {kind}({first}=…)")
    return _built(cls, kind, given)


def _built(cls: type[T], where: str, given: Mapping[str, object]) -> T:
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type] # T is a dataclass
    for field in given:
        if field not in fields:
            raise InventoryError(f"{where}: unknown field {field!r}{nearest(field, fields)}")
    for field_name, declared in fields.items():
        if field_name not in given and _required(declared):
            raise InventoryError(f"{where}: field {field_name!r} is missing")
    return cls(**{key: _checked(where, fields[key], value) for key, value in given.items()})


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}" if near else ""


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _checked(where: str, field: "dataclasses.Field[Any]", value: object) -> object:
    if value is None and field.default is None:
        return None
    try:
        return field.metadata["check"](value)
    except ExposedError as error:
        raise InventoryError(f"{where}: {field.name} {error}") from error
    except ValueError as error:
        shown = str(value) if isinstance(value, Path) else value
        raise InventoryError(f"{where}: {field.name} is {shown!r}: {error}") from error


def text(value: object) -> str:
    """Accept a non-empty string."""
    if not isinstance(value, str) or not value.strip():
        raise UnfitError("it must be a string that is not empty")
    return value


def host_name(value: object) -> str:
    """Accept a name that is safe in certificates, file names and log lines."""
    if not isinstance(value, str) or not _HOST_NAME.fullmatch(value):
        raise UnfitError("use 1-63 letters, digits, '-' and '.', with a letter or digit at both ends")
    return value


def address(value: object) -> str:
    """Accept an IP address or a DNS name, without port or scheme."""
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        raise UnfitError("it must be an IP address or a DNS name, without a port or scheme")
    return value


def networks(value: object) -> tuple[str, ...]:
    """Accept networks and single addresses; everybody is what the field means when it is left out."""
    given = words(value)
    if not given:
        raise UnfitError("it must name a network; leave it out to let everybody in")
    return tuple(map(_network, given))


def _network(text: str) -> str:
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise UnfitError(f"{error}; write networks such as '10.0.0.0/8' or 'fd00::/8'") from error
    if not found.prefixlen:
        raise UnfitError(f"{text} is everybody; leave the field out for that")
    return str(found)


def flag(value: object) -> bool:
    """Accept True or False."""
    if not isinstance(value, bool):
        raise UnfitError("it must be True or False")
    return value


def port(value: object) -> int:
    """Accept a TCP port."""
    return whole(1, 65535)(value)


def unprivileged_port(value: object) -> int:
    """Accept a TCP port that a process without root may listen on."""
    return whole(1024, 65535)(value)


def port_range(value: object) -> tuple[int, int]:
    """Accept a first and last port."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise UnfitError("it must be (first port, last port)")
    first, last = unprivileged_port(value[0]), unprivileged_port(value[1])
    if first > last:
        raise UnfitError("the first port must not be above the last")
    return first, last


def secret(value: object) -> Any:
    """Accept where a secret is read from, never the secret itself."""
    if not callable(getattr(value, "read", None)) or isinstance(value, str):
        raise ExposedError("is given as plain text: use secret_env, secret_file or secret_command")
    return value


def whole(low: int, high: int) -> Callable[[object], int]:
    """Accept a whole number within bounds; True is not a number."""

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise UnfitError(f"it must be a whole number in {low}-{high}")
        return value

    return check


_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(k|[KMGT]i?)?B")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def size(low: int) -> Callable[[object], int]:
    """Accept bytes as a whole number or as text with a unit, and return bytes."""

    def check(value: object) -> int:
        found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is not None:
            value = int(Decimal(found[1]) * {**_UNITS, **_BINARY}[found[2] or ""])
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value < 1 << 63:
            least = f"{low >> 20} MiB" if low and low % (1 << 20) == 0 else low
            raise UnfitError(f"it must be bytes, or a size such as '500 GiB', of at least {least}")
        return value

    return check


def seconds(low: float, high: float) -> Callable[[object], float]:
    """Accept a duration within bounds."""

    def check(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise UnfitError(f"it must be seconds in {low:g}-{high:g}")
        return float(value)

    return check


def one_of(*choices: str) -> Callable[[object], str]:
    """Accept one of some words."""

    def check(value: object) -> str:
        if value not in choices:
            known = " or ".join(repr(choice) for choice in choices)
            raise UnfitError(f"it must be {known}{nearest(str(value), choices)}")
        return str(value)

    return check


def words(value: object) -> tuple[str, ...]:
    """Accept several strings in a list or tuple; one string alone is a likely slip."""
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) and word for word in value):
        raise UnfitError("it must be a list of strings")
    if len(set(value)) != len(value):
        raise UnfitError("it names something twice")
    return tuple(value)


_REGISTRY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")


def registries(value: object) -> tuple[str, ...]:
    """Accept registries of images as engines name them: no scheme, and no image."""
    given = words(value)
    wrong = next((text for text in given if not _REGISTRY.fullmatch(text)), None)
    if wrong is not None:
        raise UnfitError(f"{wrong!r} is no registry; write it as engines do, such as '10.0.0.5:5000' or 'mirror/path'")
    return given


_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")


def origins(value: object) -> tuple[str, ...]:
    """Return origins of web pages as browsers write them: in small letters, without a port that goes without saying."""
    found = words(value)
    for origin in found:
        if _ORIGIN.fullmatch(origin.lower()) is None:
            raise UnfitError(f"{origin!r} is no origin of web pages, such as https://chat.example.org: no path, no '*'")
    plain = (origin.lower() for origin in found)
    ports = {"http": ":80", "https": ":443"}
    return tuple(dict.fromkeys(each.removesuffix(ports[each.partition(":")[0]]) for each in plain))


def labels(value: object) -> dict[str, str]:
    """Accept label names and values, all short plain strings."""
    if not isinstance(value, dict):
        raise UnfitError("labels are a dict of strings, such as {'gpu': 'rtx4090'}")
    for part in (*value.keys(), *value.values()):
        if not isinstance(part, str) or not _LABEL.fullmatch(part):
            raise UnfitError(f"label text {part!r} must be a string of 1-63 letters, digits, '.', '_', '/' and '-'")
    return dict(value)


def scalars(value: object) -> dict[str, str | int | float | bool]:
    """Accept the options of an engine."""
    if not isinstance(value, dict) or not all(isinstance(key, str) and key for key in value):
        raise UnfitError("options are a dict with string keys")
    for key, option in value.items():
        if not isinstance(option, str | int | float | bool):
            raise UnfitError(f"option {key!r} must be a string, a number or True/False")
    return dict(value)


def host_paths(value: object) -> tuple[str, ...]:
    """Accept absolute paths of folders that services of the host can be let see."""
    paths = tuple(host_path(path) for path in words([str(p) if isinstance(p, Path) else p for p in _listed(value)]))
    private = next((path for path in paths if f"{path}/".startswith(("/tmp/", "/var/tmp/"))), None)  # noqa: S108 - refused
    if private is not None:
        raise UnfitError(f"services see a /tmp and /var/tmp of their own; move {private} elsewhere")
    return paths


def _listed(value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise UnfitError("it must be a list of absolute paths")
    return list(value)


def host_path(value: object) -> str:
    """Accept an absolute path on the host that is safe in a unit file."""
    if not isinstance(value, str | Path) or not re.fullmatch(r"(/[A-Za-z0-9._@+-]+)+/?", str(value)):
        raise UnfitError("it must be an absolute path of letters, digits and ._@+-")
    if ".." in Path(value).parts:
        raise UnfitError("it must not contain '..'")
    return str(value).rstrip("/")


def operator_file(value: object) -> str:
    """Accept a file on the operator's machine; '~' is the home folder."""
    if not isinstance(value, str | Path) or not str(value):
        raise UnfitError("it must be the path of a file on this machine")
    path = Path(value).expanduser()
    if not path.is_file():
        raise UnfitError("there is no such file on this machine")
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise UnfitError(f"it cannot be read ({plain(error)}); make it readable for you") from error
    return str(path.absolute())


def private_key(value: object) -> str:
    """Accept a file with a private SSH key that pyinfra can load; one with a passphrase is taken for what it says."""
    # Inventories without such a field do without the SSH library.
    from paramiko import ECDSAKey, Ed25519Key, PasswordRequiredException, RSAKey  # noqa: PLC0415

    path = operator_file(value)
    for kind in (RSAKey, ECDSAKey, Ed25519Key):
        try:
            kind.from_private_key_file(path)
        except PasswordRequiredException:
            return path
        except Exception:  # noqa: BLE001, S112 - what is no key of this kind fails in many ways
            continue
        return path
    raise UnfitError(f"it is not a private key of kind RSA, ECDSA or Ed25519{_beside(path)}")


def _beside(path: str) -> str:
    private = path.removesuffix(".pub")
    return f"; did you mean {private!r}" if private != path and Path(private).is_file() else ""


def plain(error: OSError) -> str:
    """Return the system's reason alone, without number and path."""
    return (error.strerror or str(error)).lower()


def listed(kind: type[T], value: object) -> tuple[T, ...]:
    """Accept a list of what the constructor called like `kind` returns."""
    wanted = f"must be a list of {kind.__name__.lower()}(…)"
    if not isinstance(value, list | tuple):
        raise ExposedError(f"{wanted}, and is of type {type(value).__name__}")
    for number, item in enumerate(value, 1):
        if not isinstance(item, kind):
            raise ExposedError(f"{wanted}, and item {number} is of type {type(item).__name__}")
    return tuple(value)
