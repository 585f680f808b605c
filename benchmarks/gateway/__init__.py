"""The queen's gateway beside vllm-router, LiteLLM and nginx: same mock workers, one core for the gateway."""
