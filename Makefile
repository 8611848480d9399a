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

# Where there is no network, first `make wheels` where there is one, and bring build/wheels along. The
# folders are shown to Python under the name they are imported by: cirbench need not be installed.
gpu: ## checks and measures on a CUDA GPU, in at most six minutes, into results/gpu.md
	if [ -d build/wheels ]; then \
		python -m pip install --quiet --no-index --no-deps build/wheels/*.whl; fi
	mkdir -p build/gpu/cirbench && ln -sfn $(CURDIR)/benchmark/face/*.py build/gpu/cirbench/
	for room in benchmark methods datasets slurm; do ln -sfn $(CURDIR)/$$room build/gpu/cirbench/$$room; done
	PYTHONPATH=build/gpu:tests/support python -P -m perf.gpu results

PYTHON_THERE ?= 3.12
wheels: ## what `make gpu` needs on a machine with torch, torchvision, transformers and numpy
	python -m pip download --quiet --no-deps --only-binary=:all: --python-version $(PYTHON_THERE) \
		$(foreach libc,28 27 17 12 5,--platform manylinux_2_$(libc)_x86_64) --platform manylinux2014_x86_64 \
		--dest build/wheels `PYTHONPATH=tests/support python -P -m perf.needs`

faults: ## the kill and resume tests with thirty kills
	CIRBENCH_TEST_FAULTS=30 pytest -q tests/embedding/test_store.py

DIR ?= datasets/emoji
data: ## the emoji pictures anew, from their pinned sources; wants npm, and pip install '.[build]'
	python -P -m cirbench.datasets.emoji.build $(DIR)
