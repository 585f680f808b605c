"""Write small GGUF files for real engines, with weights by chance."""

from collections.abc import Callable, Mapping

import gguf
import numpy as np


def write(
    writer: gguf.GGUFWriter, shapes: Mapping[str, tuple[int, ...]], *, seed: int, ones: Callable[[str], bool]
) -> None:
    """Write tensors of these shapes and close the file; those whose names are `ones` leave what they scale as it is."""
    chance = np.random.default_rng(seed)
    for name, shape in shapes.items():
        values = np.ones(shape) if ones(name) else chance.normal(0, 0.3, shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
