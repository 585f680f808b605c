PYTHON := .venv/bin/python
.PHONY: demo demo-down test test-fast check build pins clean venv
.DEFAULT_GOAL := test-fast

demo: venv  ## two throw-away hosts (with root), a deploy, a chat answer
	@$(PYTHON) -m demo up
demo-down: venv  ## remove all that `make demo` made, except the caches
	@$(PYTHON) -m demo down
check: venv  ## lint, format, types
	@$(PYTHON) -m ruff check --quiet . && $(PYTHON) -m ruff format --quiet --check . && $(PYTHON) -m mypy --no-error-summary
test-fast: venv  ## tests that need neither lab hosts nor a built engine (< 60 s)
	@$(PYTHON) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not lab and not engine"
test: venv  ## check, then every test on real hosts; builds what is missing first
	@scripts/test
build: venv  ## release, uv, engine and lab model into the cache
	@$(PYTHON) -m demo build
pins: venv  ## refresh requirements/*.txt within the bounds of pyproject.toml
	@scripts/refresh-pins
clean:  ## what was made inside the clone; caches and hosts stay
	rm -rf .venv dist build .pytest_cache .ruff_cache .mypy_cache
venv:
	@scripts/bootstrap
