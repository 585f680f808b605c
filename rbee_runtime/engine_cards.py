"""Which engines share one model out among several cards, and how; the deployer and the queen go by it."""

BY_HEADS = frozenset({"vllm"})
"""Tensor parallel: cards that are alike, as many as divide the attention heads."""

BY_LAYERS = frozenset({"llama-cpp", "llama-server", "fake"})
"""Whole layers on each card. The fake engine has none, and shows how a fleet would do."""

SHARING_ENGINES = BY_HEADS | BY_LAYERS
