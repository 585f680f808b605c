"""The gateways that ours is measured beside: their settings and commands; pure.

Each is set up for speed: round robin, no log of requests and no key where it checks none. What that leaves out, ours
does all the same.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from benchmarks.gateway.answers import MODELS

MASTER_KEY = "sk-bench-on-loopback"
LITELLM_ENV = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
"""It would ask the internet for prices otherwise."""

IDLE_CONNECTIONS = 1024


def vllm_router(environment: Path, port: int, metrics_port: int, workers: Sequence[int]) -> tuple[str, ...]:
    """Return the command of a vllm-router of an environment before these workers."""
    urls = (f"http://127.0.0.1:{worker}" for worker in workers)
    return (
        *(str(environment / "bin" / "vllm-router"), "--host", "127.0.0.1", "--port", str(port)),
        *("--policy", "round_robin", "--prometheus-port", str(metrics_port), "--worker-urls", *urls),
    )


def litellm(environment: Path, port: int, settings: Path) -> tuple[str, ...]:
    """Return the command of a LiteLLM proxy of an environment."""
    program = str(environment / "bin" / "litellm")
    return (program, "--config", str(settings), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")


def litellm_settings(
    workers: Sequence[int],
    *,
    models: Sequence[str] = MODELS,
    retries: int = 0,
    each_more: Mapping[str, object] | None = None,
) -> str:
    """Return LiteLLM's settings: as many workers for each model, one key; `each_more` is set for every worker."""
    each = len(workers) // len(models)
    deployments = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_base": f"http://127.0.0.1:{port}/v1",
                "api_key": "none",
                **(each_more or {}),
            },
        }
        for number, model in enumerate(models)
        for port in workers[number * each : (number + 1) * each]
    ]
    settings = {
        "model_list": deployments,
        "general_settings": {"master_key": MASTER_KEY},
        "litellm_settings": {"telemetry": False, "num_retries": retries},
    }
    return yaml.safe_dump(settings, sort_keys=False)


def nginx(program: Path, settings: Path) -> tuple[str, ...]:
    """Return the command of nginx."""
    return (str(program), "-c", str(settings), "-e", "stderr")


def nginx_settings(port: int, workers: Sequence[int], folder: Path, *, root: bool = os.geteuid() == 0) -> str:
    """Return nginx's settings: one process that passes everything on at once, with its files in `folder`."""
    servers = "\n".join(f"    server 127.0.0.1:{worker};" for worker in workers)
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
{"user nobody nogroup;" if root else ""}
events {{ worker_connections 16384; }}
http {{
  access_log off;
{temporary}
  keepalive_requests 1000000000;
  upstream workers {{
{servers}
    keepalive {IDLE_CONNECTIONS};
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://workers;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
