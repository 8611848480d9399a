"""`bench train` and `bench run` of the supervised systems on the embedded task."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from networks import scramble
from safetensors import safe_open

from cirbench.benchmark.api.registry import find_method
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.checkpoints import write_checkpoint
from cirbench.benchmark.runtime.torch_state import seeded

NAMES = ("tirg", "maaf", "artemis", "cirplant")
WITH_TRUNK = NAMES[:3]
TINY_RUNS = {
    "tirg": ("--steps", 2, "--width", 16),
    "maaf": ("--steps", 2, "--width", 16, "--heads", 2, "--blocks", 1),
    "artemis": ("--first-epochs", 1, "--epochs", 1, "--width", 16),
    "cirplant": ("--epochs", 1, "--width", 16, "--heads", 2, "--layers", 1, "--hidden", 16),
}


def write(path, method, backbone, *, frozen=False):
    """A file of `bench train METHOD -b BACKBONE`, without the training."""
    found, loaded = find_method(method), load_backbone(backbone)
    reads = found.reads_features and loaded.context_length
    with seeded(0):
        network, words = found.start(
            {"width": 16, "heads": 2, "layers": 1, "hidden": 16, "init": ""},
            {
                "trunk": None if frozen else backbone,
                "image_width": loaded.embedding_width if frozen else 0,
                "text_width": loaded.embedding_width if reads else 0,
                "words": not reads,
            },
            ["cartoon", "flat icon", "twitter emoji"],
        )
    header = {
        "kind": method,
        "trained_on": "emoji",
        "backbone": {"name": backbone, "weights": loaded.weights_sha256},
        "shape": {name: getattr(network.shape, name) for name in vars(network.shape)},
        **({"words": list(words.words)} if words else {}),
        **({} if frozen else {"image": loaded.image_spec.as_dict()}),
    }
    write_checkpoint(path, scramble(network).state_dict(), header)
    return path


@pytest.fixture
def run(bench, tmp_path):
    """Runs a few queries; gives exit code, the records' cells by method, and what was said."""

    def call(*arguments):
        code, out, err = bench(
            "run", *arguments, "-t", "emoji", "--split", "val", "--limit", 24, "-o", tmp_path / "r"
        )
        records = (tmp_path / "r-partial").rglob("*.json")
        found = [json.loads(path.read_text(encoding="utf-8")) for path in records]
        return code, {record["cell"]["method"]: record for record in found}, out + err

    return call


# Options


@pytest.mark.parametrize(
    "arguments", [["train", "--help"], *(["train", n, "--help"] for n in NAMES)]
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; sys.argv = ['bench', *sys.argv[1:]]\n"
        "from cirbench.benchmark.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "names = {'torch', 'torchvision', 'transformers', 'tokenizers', 'open_clip'}\n"
        "heavy = names & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_all_trainings_are_listed(bench):
    code, out, _ = bench("train", "--help")
    assert code == 0
    for name in NAMES:
        assert f"\n  {name} " in out


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("tirg", {"steps": "160000", "lr": "0.01", "wd": "1e-06", "fusion": "vector"}),
        ("maaf", {"steps": "150000", "sampler": "category", "width": "128", "heads": "8"}),
        ("artemis", {"first-epochs": "8", "epochs": "50", "lr": "0.0005", "wd": "0.01"}),
        ("cirplant", {"epochs": "300", "lr": "1e-05", "wd": "0.05", "init": "bert-base-uncased"}),
    ],
)
def test_the_options_show_the_papers_numbers(bench, name, defaults):
    code, out, _ = bench("train", name, "--help")
    assert code == 0
    for option, value in defaults.items():
        _, _, after = " ".join(out.split()).partition(f"--{option} ")
        told, _, _ = after.partition(" --")
        assert f"[default: {value}]" in told


# Training


@pytest.mark.parametrize("name", NAMES)
def test_a_training_over_a_clip_writes_a_file_that_runs(bench, run, tmp_path, name):
    path = tmp_path / "w.safetensors"
    command = ("train", name, "-t", "emoji", "-b", "fake", "-o", path, "-q")
    code, out, err = bench(*command, "--batch-size", 512, *TINY_RUNS[name])
    assert (code, out) == (0, f"{path}\n"), err
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["cirbench"])
    assert header["recipe"]["batch_size"] == 512
    assert header["selection"]["metrics"] == ["R@10"]
    code, records, said = run("-m", name, "--checkpoint", path)
    assert code == 0, said
    assert records[name]["cell"]["backbone"] == "fake"
    assert records[name]["cell"]["trained_on"] == "emoji"
    assert records[name]["method"]["zero_shot"] is False


def test_a_training_with_its_trunk_writes_a_file_that_runs(bench, run, tmp_path):
    path = tmp_path / "w.safetensors"
    command = ("train", "tirg", "-t", "emoji", "-b", "tiny", "-o", path, "-q")
    code, _, err = bench(*command, "--augmentation", "emoji", *TINY_RUNS["tirg"])
    assert code == 0, err
    code, records, said = run("-m", "tirg", "-m", "image-only", "--checkpoint", path)
    assert code == 0, said
    assert set(records) == {"tirg", "image-only"}


# Running


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_file_finds_its_backbone(run, tmp_path, name):
    path = write(tmp_path / "w.safetensors", name, "emoji-clip", frozen=True)
    code, records, said = run("-m", name, "--checkpoint", path)
    assert code == 0, said
    assert records[name]["cell"]["backbone"] == "emoji-clip"


@pytest.mark.parametrize("given", [(), ("-b", "tiny"), ("-b", "trained:")])
@pytest.mark.parametrize("name", WITH_TRUNK)
def test_an_end_to_end_file_runs_over_itself(run, tmp_path, name, given):
    path = write(tmp_path / "w.safetensors", name, "tiny")
    given = tuple(f"trained:{path}" if one == "trained:" else one for one in given)
    code, records, said = run("-m", name, "--checkpoint", path, *given)
    assert code == 0, said
    assert records[name]["cell"]["backbone"].startswith(f"trained:{name}+")
    assert records[name]["cell"]["checkpoint"]


@pytest.mark.parametrize("name", WITH_TRUNK)
def test_the_baselines_run_over_trained_towers_and_the_method_needs_no_other_file(
    run, tmp_path, name
):
    path = write(tmp_path / "w.safetensors", name, "tiny")
    baselines = ("image-only", "text-only", "image-text")
    chosen = [text for method in (*baselines, name) for text in ("-m", method)]
    code, records, said = run(*chosen, "-b", f"trained:{path}")
    assert code == 0, said
    assert set(records) == {*baselines, name}
    assert len({record["cell"]["backbone"] for record in records.values()}) == 1


def test_all_methods_over_trained_towers_are_the_one_that_was_trained_and_those_without_weights(
    run, tmp_path
):
    path = write(tmp_path / "w.safetensors", "artemis", "tiny")
    code, records, said = run("-m", "all", "-b", f"trained:{path}")
    assert code == 0, said
    assert {"artemis", "image-only", "text-only", "image-text"} <= set(records)
    assert not {"tirg", "maaf", "pic2word", "combiner"} & set(records)


def test_a_file_is_found_from_its_own_folder(run, tmp_path, monkeypatch):
    write(tmp_path / "w.safetensors", "tirg", "tiny")
    monkeypatch.chdir(tmp_path)
    for given in ("w.safetensors", "./w.safetensors"):
        code, records, said = run("-m", "tirg", "--checkpoint", given)
        assert code == 0, said
        code, _, said = run("-m", "image-only", "-b", f"trained:{given}")
        assert code == 0, said
    assert str(tmp_path) not in json.dumps(records)


def test_the_method_that_is_the_backbone_is_not_stored_again_as_another(run, tmp_path):
    path = write(tmp_path / "w.safetensors", "tirg", "tiny")
    cells = []
    for given in (
        ("--checkpoint", path),
        ("-b", f"trained:{path}"),
        ("-b", "tiny", "--checkpoint", path),
    ):
        code, records, said = run("-m", "tirg", *given)
        assert code == 0, said
        cells.append(records["tirg"]["cell"])
    assert cells[0] == cells[1] == cells[2]


# What cannot be


@pytest.mark.parametrize(
    ("name", "backbone", "options", "words"),
    [
        ("tirg", "fake", ("--fusion", "sum"), "fusion must be one of vector, last-conv, concat"),
        ("tirg", "fake", ("--fusion", "last-conv"), "over frozen features use vector"),
        ("tirg", "fake", ("--loss", "hinge"), "loss must be one of cross-entropy, triplet"),
        ("maaf", "fake", ("--sampler", "pure"), "sampler must be random or category, got 'pure'"),
        ("artemis", "fake", ("--text-tower", "gru"), "text_tower must be one of bigru, lstm"),
        ("artemis", "tiny", ("--augmentation", "blur"), "unknown augmentation 'blur'; known: none"),
        ("artemis", "fake", ("--augmentation", "blur"), "unknown augmentation 'blur'; known: none"),
        ("tirg", "tiny", ("--precision", "bf16"), "trained in fp32 alone, got bf16"),
        ("tirg", "nobody", (), "nobody"),
        ("artemis", "fake", ("--epochs", 0), "epochs must be at least 1, got 0"),
        ("maaf", "fake", ("--width", 10), "width must be a multiple of 8 heads, got 10"),
    ],
)
def test_what_makes_no_training_is_a_plain_message(bench, tmp_path, name, backbone, options, words):
    path = tmp_path / "w.safetensors"
    code, out, err = bench("train", name, "-t", "emoji", "-b", backbone, "-o", path, *options)
    assert (code, out) == (2, "")
    assert err.startswith("bench: error: ")
    assert words in err
    assert not path.exists()


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_would_not_be_read_again_are_not_made(bench, tmp_path, name):
    code, _, err = bench("train", name, "-t", "emoji", "-b", "fake", "-o", tmp_path / "w.pt")
    assert code == 2
    assert "w.pt must end in .safetensors" in err


@pytest.mark.parametrize("name", NAMES)
def test_a_task_without_triplets_is_refused(bench, tmp_path, name):
    code, _, err = bench(
        "train", name, "-t", "imagenet-r", "-b", "fake", "-o", tmp_path / "w.safetensors"
    )
    assert code == 2
    assert "a task must have triplets to be trained or selected on, got imagenet-r" in err


def test_weights_that_cannot_be_fetched_are_named(bench, tmp_path, monkeypatch):
    def refuse(*_arguments, **_named):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    path = tmp_path / "w.safetensors"
    code, _, err = bench(
        "train", "artemis", "-t", "emoji", "-b", "torchvision:resnet50", "-o", path
    )
    assert code == 3
    for words in ("resnet50-0676ba61.pth", "TORCH_HOME", "torchvision:resnet50/random"):
        assert words in err


@pytest.mark.parametrize(
    ("backbone", "code", "words"),
    [
        ("emoji-clip", 4, "--backbone trained:"),
        ("torchvision:resnet18/random", 4, "--backbone trained:"),
    ],
)
def test_an_end_to_end_file_over_another_backbone_says_what_to_type(
    run, tmp_path, backbone, code, words
):
    path = write(tmp_path / "w.safetensors", "artemis", "tiny")
    found, _, said = run("-m", "artemis", "--checkpoint", path, "-b", backbone)
    assert found == code
    assert words in said


def test_a_checkpoint_of_another_method_is_refused(run, tmp_path):
    path = write(tmp_path / "w.safetensors", "artemis", "fake", frozen=True)
    code, _, said = run("-m", "tirg", "--checkpoint", path)
    assert code == 4
    assert "its header must say tirg" in said


@pytest.mark.parametrize("method", ["pic2word", "tirg"])
def test_a_method_without_weights_for_trained_towers_is_refused(run, tmp_path, method):
    path = write(tmp_path / "w.safetensors", "artemis", "tiny")
    code, _, said = run("-m", method, "-b", f"trained:{path}")
    assert code == 3
    assert f"{method} needs --checkpoint {method}=FILE" in said


def test_a_trained_file_that_is_not_there_is_named(run, tmp_path):
    code, _, said = run("-m", "image-only", "-b", f"trained:{tmp_path}/nowhere.safetensors")
    assert code == 3
    assert "nowhere.safetensors" in said
