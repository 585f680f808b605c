"""The OpenAPI document is valid, complete and typed."""

import json

import msgspec
from openapi_spec_validator import OpenAPIV31SpecValidator

from rbee_runtime.hive import openapi
from rbee_runtime.hive.routes import ROUTES
from rbee_runtime.states import Observed
from tests.unit.hive.conftest import Start

DOCUMENT = json.loads(msgspec.json.encode(openapi.document(ROUTES)))


def test_the_document_is_valid() -> None:
    """A validator of the OpenAPI initiative's schema finds nothing."""
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_route_is_described() -> None:
    """Each method of each path has a sentence, its answers with a schema, and refusals in the one error form."""
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path.replace(":path", "")][route.method.lower()]
        assert operation["summary"]
        good = operation["responses"]["204" if route.answer is None else "200"]
        assert all(each["schema"] for each in good.get("content", {"": {"schema": True}}).values())
        assert operation["security"] == ([] if route.roles is None else [{"certificate": []}])
    names = [each["operationId"] for path in DOCUMENT["paths"].values() for each in path.values()]
    assert len(names) == len(set(names)) == len(ROUTES)


def test_schemas_come_from_the_messages() -> None:
    """Closed sets are enumerated and errors have their fields."""
    schemas = DOCUMENT["components"]["schemas"]
    assert set(schemas["Observed"]["enum"]) == {state.value for state in Observed}
    assert set(schemas["ErrorDetail"]["properties"]) == {"message", "type", "code", "param"}
    refused = DOCUMENT["paths"]["/api/v1/desired"]["put"]["responses"]["409"]
    assert refused["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}


async def test_a_hive_serves_it(start: Start) -> None:
    """What is served is what was validated."""
    _, queen = await start()
    assert (await queen.get("/api/v1/openapi.json")).json() == DOCUMENT
