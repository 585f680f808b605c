"""What a server that is not the fleet's own gets of a request, and what its faults become."""

import pytest

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.body import Body, renamed
from tests.unit.gateway.gateway import PLAIN, STREAM, Gate, gateway
from tests.unit.gateway.upstream import Call, answer_json, say_hello, worker


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        (b'{"model":"m"}', b'{"model":"tiny.gguf"}'),
        (b'{ "n" : 1e400, "model" : "m" }', b'{"n":1e400,"model":"tiny.gguf"}'),
        (b'{"model":"m","messages":[{"model": "m" }],"x":"\\u00e9 \\n"}', None),
        (b'{"model":"other","model":"m"}', b'{"model":"tiny.gguf"}'),
        (b'{"mod\\u0065l":"m"}', b'{"model":"tiny.gguf"}'),
    ],
)
def test_only_the_name_of_the_model_changes(raw: bytes, sent: bytes | None) -> None:
    """Every other value is byte for byte what the client wrote, and no second name of a model is left."""
    kept = raw.replace(b'{"model":"m"', b'{"model":"tiny.gguf"', 1)
    assert renamed(Body(raw, "m", stream=False), "tiny.gguf") == (kept if sent is None else sent)


def test_a_body_that_cannot_be_renamed_is_the_clients_mistake() -> None:
    """A name of a field that is no text is a 400, not a fault of the queen."""
    with pytest.raises(RequestError, match="not JSON") as refused:
        renamed(Body(b'{"model":"m","\\ud800":1}', "m", stream=False), "n")
    assert refused.value.status == 400


async def test_a_server_gets_its_own_name_and_key_and_nothing_of_the_client() -> None:
    """The body names the server's model, the header carries the server's key, the client's key stays here."""
    async with worker(answer_json) as w, gateway(Gate([w.url]).into("tiny.gguf", "Bearer theirs")) as g:
        answer = await g.client.post(g.url, json=PLAIN, headers={"authorization": "Bearer rbee_secret"})
        assert answer.json() == {"ok": True}
        assert w.calls[0].body == b'{"model":"tiny.gguf"}'
        assert b"authorization: bearer theirs" in w.calls[0].head.lower()
        assert b"rbee_secret" not in w.calls[0].head


async def test_without_a_key_no_authorization_is_sent() -> None:
    """A server that asks for none gets none."""
    async with worker(answer_json) as w, gateway(Gate([w.url]).into("m", "")) as g:
        await g.client.post(g.url, json=PLAIN, headers={"authorization": "Bearer rbee_secret"})
        assert b"authorization" not in w.calls[0].head.lower()


@pytest.mark.parametrize("status", [302, 401, 403, 404, 405, 503])
async def test_what_the_inventory_has_wrong_is_not_the_clients_fault(status: int) -> None:
    """A server that refuses the queen, or sends her elsewhere, counts as failed; another one answers."""

    async def refuses(call: Call) -> None:
        await call.json(status, b'{"error":{"message":"Invalid API Key"}}', "location: http://127.0.0.1:1/")

    async with worker(refuses) as bad, worker(say_hello) as good:
        async with gateway(Gate([bad.url, good.url]).into("m", "")) as g:
            assert "[DONE]" in (await g.post(STREAM)).text
            assert g.gate.settled == [(bad.url, False), (good.url, True)]
        async with gateway(Gate([bad.url]).into("m", "")) as g:
            alone = await g.post(STREAM)
            assert (alone.status_code, "Invalid API Key" in alone.text) == (503, False)


async def test_what_a_client_got_wrong_passes_through() -> None:
    """A server's 400 is the client's answer."""

    async def refuses(call: Call) -> None:
        await call.json(400, b'{"error":{"message":"bad","param":"n"}}')

    async with worker(refuses) as w, gateway(Gate([w.url]).into("m", "")) as g:
        assert (await g.post(PLAIN)).json()["error"]["param"] == "n"
