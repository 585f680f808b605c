"""The lab's model with another chat template: the same weights, another way to be spoken to."""

from pathlib import Path

import gguf
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

from rbee_deploy.model_files import lab_model

_TEMPLATE = "tokenizer.chat_template"


def templated_model(path: Path, template: str) -> Path:
    """Write it to `path` (half a second, 100 MB)."""
    reader = gguf.GGUFReader(lab_model())
    writer = gguf.GGUFWriter(path, "llama")
    copy_with_new_metadata(reader, writer, {_TEMPLATE: MetadataDetails(gguf.GGUFValueType.STRING, template)}, [])
    writer.close()
    return path


THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.reasoning_content %}{{ '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% if enable_thinking is defined and enable_thinking is true %}{{ '<think>\\n' }}{% endif %}{% endif %}"
)
"""As those of Qwen and DeepSeek: thoughts between marks, opened or closed by the prompt where a client says so."""
