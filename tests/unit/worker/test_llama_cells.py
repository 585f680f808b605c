"""Cells in one pool, as on GPUs, and in streams, as on processors: the same answers from the real library."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("kind", ["pooled", "streams"])
def test_what_prompts_share_is_computed_once(kind: str, llama_engine_dir: Path, smol_model: Path) -> None:
    """Alone, beside others that begin alike and once more: nearly all of a prompt is reused, and no answer changes.

    Answers that are computed beside others may part where two tokens are nearly as likely, so most have to agree.
    """
    words = (sys.executable, "-m", "tests.llama_steps", str(llama_engine_dir), str(smol_model), kind)
    alone, together, again = json.loads(subprocess.run(words, check=True, capture_output=True, timeout=300).stdout)
    texts = [text for text, _ in alone]
    assert len(set(texts)) == len(texts)
    for answers in (together, again):
        assert sum(text == expected for (text, _), expected in zip(answers, texts, strict=True)) >= len(texts) - 1
    first, *others = [cached for _, cached in alone]
    assert first == 0
    assert min(others) > 80
    assert min(cached for answers in (together, again) for _, cached in answers) > 80
