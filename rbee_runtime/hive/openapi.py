"""The OpenAPI 3.1 document of a table of operations; schemas come from the message types themselves."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from rbee_runtime import __version__
from rbee_runtime.hive.answers import ErrorAnswer

JSON = "application/json"
_REFERENCES = "#/components/schemas/{name}"
_IN_PATH = re.compile(r"\{([a-z]+)(?::path)?\}")


@dataclass(frozen=True)
class Parameter:
    """A value that a caller may give; `place` is `query` or `header`."""

    name: str
    place: str
    text: str
    kind: str = "string"


@dataclass(frozen=True)
class Operation:
    """What the document says of one method of one path.

    `answer` is the type behind status 200 (None: 204 without a body), `media` its forms, the typed one first.
    """

    method: str
    path: str
    answer: Any
    body: Any = None
    parameters: tuple[Parameter, ...] = ()
    media: tuple[str, ...] = (JSON,)
    failures: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Return a name that no other operation has."""
        return f"{self.method.lower()}_{_IN_PATH.sub(lambda found: found[1], self.path).strip('/').replace('/', '_')}"

    @property
    def summary(self) -> str:
        """Return one sentence."""
        return ""

    @property
    def public(self) -> bool:
        """Say whether it needs no certificate."""
        return False


def document(operations: Sequence[Operation], *, title: str = "rbee hive") -> dict[str, Any]:
    """Return the document."""
    kinds = [kind for each in operations for kind in (each.answer, each.body) if _is_message(kind)]
    schemas, components = msgspec.json.schema_components([*kinds, ErrorAnswer], ref_template=_REFERENCES)
    named = dict(zip([*kinds, ErrorAnswer], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        path = _IN_PATH.sub(lambda found: "{" + found[1] + "}", each.path)
        paths.setdefault(path, {})[each.method.lower()] = _operation(each, named)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": __version__,
            "description": "Errors have OpenAI's shape. Who may call what is decided by the role in the certificate.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"certificate": {"type": "mutualTLS", "description": "A certificate of the fleet."}},
        },
    }


def _is_message(kind: Any) -> bool:
    return kind not in {None, str, bytes, dict}


def _operation(each: Operation, named: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    built: dict[str, Any] = {
        "operationId": each.name,
        "summary": each.summary,
        "security": [] if each.public else [{"certificate": []}],
        "parameters": [_in_path(name) for name in _IN_PATH.findall(each.path)] + [_given(p) for p in each.parameters],
        "responses": _answers(each, named),
    }
    if each.body is not None:
        built["requestBody"] = {"required": True, "content": {JSON: {"schema": named[each.body]}}}
    return built


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _given(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.text,
        "schema": {"type": parameter.kind},
    }


def _answers(each: Operation, named: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    good = {"description": "as asked"}
    if each.answer is None:
        found: dict[str, Any] = {"204": {"description": "done"}}
    else:
        found = {"200": {**good, "content": {media: {"schema": _schema(each, media, named)} for media in each.media}}}
    if any(parameter.name == "range" for parameter in each.parameters):
        found["206"] = {**found["200"], "description": "the range that was asked for"}
    statuses = each.failures if each.public else sorted({*each.failures, 403})
    for status in statuses:
        same = each.answer if status == 503 and each.public else ErrorAnswer
        content = {JSON: {"schema": named[same]}}
        found[str(status)] = {"description": HTTPStatus(status).phrase.lower(), "content": content}
    return found


def _schema(each: Operation, media: str, named: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    if media == JSON:
        return named[each.answer] if each.answer is not dict else {"type": "object"}
    return {"type": "string", "format": "binary"} if each.answer is bytes else {"type": "string"}
