PYTHON := .venv/bin/python
# Set on some machines: every start of a program would then compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: demo demo-down test test-fast check bench-hive faults-hive faults-queen faults-deploy faults-containers soak fuzz-formats fuzz-placement bench-pull bench-deploy bench-container bench-worker bench-gateway bench-scale build pins clean machine venv
.DEFAULT_GOAL := test-fast

demo: venv  ## two throw-away hosts (with root), a deploy, a chat answer
	@$(PYTHON) -m demo up
demo-down: venv  ## remove all that `make demo` made, except the caches
	@$(PYTHON) -m demo down
check: venv  ## lint, format, types
	@$(PYTHON) -m ruff check --quiet . && $(PYTHON) -m ruff format --quiet --check . && $(PYTHON) -m mypy --no-error-summary
test-fast: venv  ## what needs no lab host, no built engine and no seconds for one test (a minute or two)
	@$(PYTHON) -m pytest -q -n 3 --no-loadscope-reorder -m "not lab and not engine and not slow"
test: venv  ## check, then tests, on real hosts too, but for what faults-… alone run; builds what is missing first
	@scripts/test
faults-hive: machine  ## every fault that a hive bears, at full length (some 25 minutes; on lab hosts)
	@$(PYTHON) -m tests.faults hive
faults-queen: venv  ## what clients see when workers, hosts, other clients or the queen fail, at full length (some 36 minutes)
	@$(PYTHON) -m tests.faults queen
faults-deploy: machine  ## every accident that a deploy bears, at full length (about an hour; on lab hosts)
	@$(PYTHON) -m tests.faults deploy
faults-containers: machine  ## every accident that hosts with containers bear (about an hour; on lab hosts)
	@$(PYTHON) -m tests.faults containers
soak: venv  ## a queen under steady traffic while workers die: what grows, what is lost (20 minutes)
	@$(PYTHON) -m tests.faults.soak
fuzz-formats: venv  ## 50,000 damaged and random model files (minutes)
	@RBEE_FUZZ_EXAMPLES=50000 $(PYTHON) -m pytest -q --durations=6 tests/unit/models/test_formats_fuzz.py
fuzz-placement: venv  ## 3,000 random histories of a fleet in virtual time, and as many plans of what changed (some 15 minutes)
	@RBEE_HISTORIES=3000 $(PYTHON) -m pytest -q tests/unit/queen/test_histories.py tests/unit/queen/test_due.py
bench-worker: machine  ## our worker beside llama.cpp's own server and llama_cpp.server, 1, 4 and 8 clients (some 10 minutes)
	@$(PYTHON) -m benchmarks.worker
bench-gateway: venv  ## the queen's gateway beside vllm-router, LiteLLM and nginx, over mock workers (some 10 minutes)
	@$(PYTHON) -m benchmarks.gateway
bench-scale: venv  ## a queen before 1,000 hives and 5,000 workers that run nothing: core, placement, memory (about 3 minutes)
	@$(PYTHON) -m benchmarks.scale
build: venv  ## release, uv, engine and lab model into the cache
	@$(PYTHON) -m demo build
bench-hive: venv  ## processor time and memory of a hive with 30 idle workers (about 2 minutes)
	@$(PYTHON) -m benchmarks.hive_idle
bench-pull: venv  ## a 2 GiB model over loopback HTTP against curl and sha256sum (about 2 minutes, 8 GiB of disk)
	@$(PYTHON) -m benchmarks.model_pull
bench-deploy: machine  ## deploys to 1, 2 and 5 lab hosts beside an Ansible playbook, and to 100 made-up ones (some 15 minutes)
	@$(PYTHON) -m benchmarks.deploy
bench-container: machine  ## a worker in containers of Podman and Docker beside the same worker bare, on lab hosts (10 minutes or more)
	@$(PYTHON) -m benchmarks.container
pins: venv  ## refresh requirements/*.txt within the bounds of pyproject.toml
	@scripts/refresh-pins
clean:  ## what was made inside the clone; caches and hosts stay
	rm -rf .venv dist build .pytest_cache .ruff_cache .mypy_cache
machine: venv  ## what lab hosts and the compiler need of this machine, where root runs it
	@if [ "$$(id -u)" -eq 0 ]; then $(PYTHON) -m demo packages; fi
venv:
	@scripts/bootstrap
