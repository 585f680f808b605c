"""What is written down: one line for each event, without the keys that somebody put where none belong."""

import pytest

from rbee_runtime import logs

KEY = "rbee_abcd1234_" + "S3cret" * 7


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"path=/api/v1/keys/{KEY}", "path=/api/v1/keys/rbee_abcd1234_***"),
        (f'model="{KEY} x"', 'model="rbee_abcd1234_*** x"'),
        ("token hf_" + "a" * 34, "token hf_***"),
        ("sk-proj-" + "b" * 40 + " y", "sk-*** y"),
        ("authorization: Bearer " + "c" * 30, "authorization: Bearer ***"),
        ("-----BEGIN EC PRIVATE KEY-----\\nMHcC\\n-----END EC PRIVATE KEY-----.", "-----BEGIN EC PRIVATE KEY-----***."),
        ("-----BEGIN PRIVATE KEY-----\nMHcC", "-----BEGIN PRIVATE KEY-----***"),
        ("send it as `Authorization: Bearer rbee_…`", "send it as `Authorization: Bearer rbee_…`"),
        ("key=abcd1234 user=rbee_queen task-1 hf_hub", "key=abcd1234 user=rbee_queen task-1 hf_hub"),
    ],
)
def test_keys_are_hidden(text: str, shown: str) -> None:
    """Of a key its kind, and of ours the id, is left; words that look alike stay."""
    assert logs.without_secrets(text) == shown


def test_nothing_gets_past(capsys: pytest.CaptureFixture[str]) -> None:
    """Events and lines that are stacked go the same way out."""
    logs.warning("x", why=KEY)
    stack = logs.Stack(lambda _seconds, _flush: None)
    stack.add(f"info event=request model={KEY}")
    stack.flush()
    assert capsys.readouterr().err == (
        "warning event=x why=rbee_abcd1234_***\ninfo event=request model=rbee_abcd1234_***\n"
    )
