"""What is wrong with the options of an engine, said of the one option that it is about."""

import difflib
from collections.abc import Mapping

import msgspec


def first_mistake(kind: type[msgspec.Struct], options: Mapping[str, object]) -> str:
    """Return what is wrong with the first option that `kind` refuses, texts of numbers taken as numbers, or ""."""
    known = kind.__struct_fields__
    for key, value in options.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            return f"there is no {key!r}" + (f"; did you mean {near[0]!r}" if near else "")
        try:
            msgspec.convert({key: value}, kind, strict=False)
        except msgspec.ValidationError as error:
            if allowed := _values(kind, key):
                return f"{key} is {value!r}; it is one of {', '.join(filter(None, allowed))}"
            if described := _description(kind, key):
                return f"{key} is {value!r}; it is {described}"
            # The place is the option itself.
            reason = str(error).partition(" - at `")[0]
            return f"{key} is {value!r}: {reason[:1].lower()}{reason[1:]}"
    return ""


def _type_of(kind: type[msgspec.Struct], key: str) -> msgspec.inspect.Type:
    info = msgspec.inspect.type_info(kind)
    fields = info.fields if isinstance(info, msgspec.inspect.StructType) else ()
    (found,) = (field.type for field in fields if field.name == key)
    return found


def _description(kind: type[msgspec.Struct], key: str) -> str:
    """Return what an option is in words, where its type says that: nobody reads patterns."""
    found = _type_of(kind, key)
    schema = found.extra_json_schema if isinstance(found, msgspec.inspect.Metadata) else None
    return str((schema or {}).get("description", ""))


def _values(kind: type[msgspec.Struct], key: str) -> tuple[str, ...]:
    """Return the values that an option may have if they are a closed set."""
    found = _type_of(kind, key)
    if isinstance(found, msgspec.inspect.EnumType):
        return tuple(str(member.value) for member in found.cls)
    return tuple(map(str, found.values)) if isinstance(found, msgspec.inspect.LiteralType) else ()
