# The targets work in the active virtual environment.
.PHONY: install format check docs perf gpu wheels faults data

install: ## the project, editable, and what the tests need: tools, and a plug-in
	pip install -e '.[test]'
	pip install --no-deps ./tests/plugin

format: ## what ruff can mend
	ruff check --fix .
	ruff format .

check: ## ruff, mypy, pytest and the leaderboard's freshness: what CI runs
	bash .ci/run lint types tests browser_tests slurm_tests docs_tests committed_results

docs: ## the documentation, in build/site; wants pip install -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# -P keeps the root off sys.path, where datasets/ would pass for Hugging Face's package.
perf: ## time and memory of the harness
	PYTHONPATH=tests/support python -P -m perf results

# python3: a machine with a GPU may have no other name for the Python that holds its PyTorch.
gpu: ## checks and measures on a CUDA GPU, in six minutes, into results/gpu.md
	PYTHONPATH=tests/support python3 -P -m gpu results

# What a machine with its own PyTorch is likely to lack; PYTHON_THERE is its Python.
PYTHON_THERE ?= 3.12
LACKING ?= filelock ftfy jinja2 markdown-it-py markupsafe mdurl open_clip_torch pillow platformdirs \
	pygments rich tabulate timm wcwidth
FETCH = python3 -m pip download -q -d build/wheels --python-version $(PYTHON_THERE) --only-binary=:all:
wheels: ## packages for `make gpu` on a machine without a network, into build/wheels
	$(FETCH) --no-deps $(LACKING)
	$(FETCH) pydantic

faults: ## the kill and resume tests with thirty kills
	CIRBENCH_TEST_FAULTS=30 pytest -q tests/embedding/test_store.py

TASK ?= emoji
DIR ?= datasets/$(TASK)
data: ## an embedded task's pictures anew, from pinned sources; wants npm, and pip install '.[build]'
	python -P -m cirbench.datasets.$(TASK).build $(DIR)
