"""What official clients see of a deployed fleet."""

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.fleets import Fleet

pytestmark = pytest.mark.lab

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Name three colours, please."}]


def test_models_are_listed(deployed: Fleet) -> None:
    """The official client lists the declared models."""
    client = deployed.client()
    assert {model.id for model in client.models.list()} >= {"smol", "slow"}
    assert client.models.retrieve("smol").id == "smol"


def test_an_answer_comes_from_the_other_host(deployed: Fleet) -> None:
    """A chat completion through the queen is text that a real model made, with its usage."""
    answer = deployed.client().chat.completions.create(model="smol", messages=QUESTION, max_tokens=24, temperature=0)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 24


def test_an_answer_is_streamed(deployed: Fleet) -> None:
    """A streamed completion arrives in several pieces that add up to the same greedy answer as an unstreamed one."""
    client = deployed.client()
    whole = client.chat.completions.create(model="smol", messages=QUESTION, max_tokens=24, temperature=0)
    stream = client.chat.completions.create(model="smol", messages=QUESTION, max_tokens=24, temperature=0, stream=True)
    pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 3
    assert "".join(pieces) == whole.choices[0].message.content


def test_a_wrong_key_is_refused(deployed: Fleet) -> None:
    """A key that nobody made is an AuthenticationError."""
    with pytest.raises(openai.AuthenticationError):
        deployed.client(key="rbee_00000000_nobody").models.list()


def test_an_unknown_model_is_named(deployed: Fleet) -> None:
    """A model that the fleet does not have is a NotFoundError that says which."""
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        deployed.client().chat.completions.create(model="gpt-9", messages=QUESTION)


def test_a_revoked_key_stops_working(deployed: Fleet) -> None:
    """A key works from its creation to its revocation, and not a moment longer."""
    made = deployed.admin("keys", method="POST", name="guest", scopes=["infer"])
    guest = deployed.client(key=made["key"])
    assert guest.models.list().data
    deployed.admin(f"keys/{made['id']}", method="DELETE")
    with pytest.raises(openai.AuthenticationError):
        guest.models.list()
