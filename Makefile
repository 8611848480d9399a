# The targets work in the active virtual environment.
.PHONY: install format check docs perf faults data

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

faults: ## the kill and resume tests with thirty kills
	CIRBENCH_TEST_FAULTS=30 pytest -q tests/embedding/test_store.py

DIR ?= datasets/emoji
data: ## the emoji pictures anew, from their pinned sources; wants npm, and pip install '.[build]'
	python -P -m cirbench.datasets.emoji.build $(DIR)
