"""`bench` as a person uses it: what it prints, where, and the exit code it ends in."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from importlib.metadata import version
from typing import ClassVar

import numpy as np
import pytest
from places import RESULTS

from cirbench.benchmark.api import registry
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import Query, TaskData
from cirbench.benchmark.evaluation.plan import Request, plan_methods
from cirbench.benchmark.images.reading import find_images_in_folder

FAKE = ["--backbone", "fake", "--limit", "3", "--quiet"]


@pytest.fixture
def bench(bench, monkeypatch, tmp_path):
    """The fixture of all tests, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return bench


@pytest.fixture
def folder_task(monkeypatch, picture_folder):
    """A task over the pictures of a folder: each reference is its own positive."""

    class Folder(Task):
        name: ClassVar = "folder"
        splits: ClassVar = ("test",)
        default_backbone: ClassVar = "fake"
        protocols: ClassVar = {
            "plain": EvaluationProtocol(
                name="plain",
                version=1,
                gallery="all",
                reference_removed=False,
                preprocess="clip",
                templates={"text": "a picture", "pseudo-word": "no placeholder"},
                metrics=("R@1",),
                headline="R@1",
            )
        }

        def load(self, *, protocol, split, data_root):
            refs = find_images_in_folder(picture_folder) if any(picture_folder.iterdir()) else ()
            queries = tuple(Query(id=r.id, reference=r, positives=(i,)) for i, r in enumerate(refs))
            return TaskData(gallery=refs, queries=queries, annotations={})

    entries = {**registry.tasks(), "folder": registry.Entry(target="tests:Folder")}
    real = registry.Entry.load
    monkeypatch.setattr(registry, "tasks", lambda: entries)
    monkeypatch.setattr(
        registry.Entry, "load", lambda self: Folder if "Folder" in self.target else real(self)
    )
    return picture_folder


def test_a_run_prints_a_table_and_stores_its_record(bench, folder_task, tmp_path):
    code, out, _ = bench("run", "-m", "image-only", "-t", "folder", "-q")
    assert code == 0
    assert "image-only on folder (test), fake" in out
    assert "100.0" in out
    [path] = (tmp_path / "results").glob("folder/*.json")
    assert str(path.relative_to(tmp_path)) in out
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["metrics"]["all"] == record["metrics"]["average"]
    assert record["metrics"]["all"]["R@1"] == {"value": 100, "low": 100, "high": 100, "n": 24}
    assert record["counts"]["queries"] == record["counts"]["gallery"] == 24
    assert record["counts"]["image_passes"] == 24
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        assert arrays["top"].shape == (24, 1)


@pytest.mark.parametrize("columns", ["60", "80", "83", "200"])
def test_the_table_is_whole_however_narrow_the_terminal(bench, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    _, out, _ = bench("run", "-m", "image-only", "-t", "emoji", "-o", "out", *FAKE)
    assert "…" not in out
    for word in ("mono", "average", "average without flat", "R@1 ", "R@10", "R@50"):
        assert word in out
    table = [line for line in out.splitlines() if line.startswith(" ")]
    assert max(map(len, table)) <= int(columns)


def test_json_is_all_that_goes_to_stdout(bench, folder_task):
    _, one, _ = bench("run", "-m", "image-only", "-t", "folder", "--json")
    _, two, err = bench("run", "-m", "image-only", "-m", "text-only", "-t", "folder", "--json")
    assert json.loads(one)["cell"]["method"] == "image-only"
    assert [record["cell"]["method"] for record in json.loads(two)] == ["image-only", "text-only"]
    assert "{" not in err


def test_a_limited_run_stays_out_of_results(bench, tmp_path):
    code, out, _ = bench("run", "-m", "image-only", "-t", "emoji", *FAKE)
    assert code == 0
    assert "PARTIAL: 3 queries a group" in out
    assert not list((tmp_path / "results").glob("*/*"))
    [path] = (tmp_path / "results-partial").glob("emoji/*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["run"]["partial"]
    assert record["counts"]["queries"] == 12
    assert bench("leaderboard", "-o", "results-partial")[0] == 3


def test_a_dry_run_does_no_work(bench, tmp_path):
    code, out, _ = bench("run", "-m", "all", "-t", "emoji", "--dry-run", "--json")
    planned = json.loads(out)
    assert code == 0
    assert planned["queries"] == 2400
    assert planned["gallery"] == planned["pictures"] == 3000
    assert set(planned["methods"]) >= {"image-only", "text-only", "image-text", "pic2word"}
    assert not list(tmp_path.glob("results*"))


def test_leaderboard_is_written_then_current_then_stale(bench, folder_task, tmp_path):
    bench("run", "-m", "image-only", "-m", "text-only", "-t", "folder", "-q")
    code, out, _ = bench("leaderboard")
    assert code == 0
    assert "image-only" in out
    paths = [tmp_path / line for line in out.splitlines() if line.startswith("results/")]
    assert {path.suffix for path in paths} == {".md", ".svg", ".png"}
    before = {path: path.read_bytes() for path in paths}
    assert bench("leaderboard", "--check")[0] == 0
    bench("leaderboard")
    assert before == {path: path.read_bytes() for path in paths}
    bench("run", "-m", "image-text", "-t", "folder", "-q")
    code, _, err = bench("leaderboard", "--check")
    assert code == 1
    assert "leaderboard.md" in err
    assert before == {path: path.read_bytes() for path in paths}


def test_a_record_whose_number_was_edited_is_refused(bench, folder_task, tmp_path):
    bench("run", "-m", "image-only", "-t", "folder", "-q")
    [path] = (tmp_path / "results").glob("folder/*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    record["metrics"]["average"]["R@1"]["value"] = 95.0
    path.write_text(json.dumps(record), encoding="utf-8")
    for command in ("leaderboard", "report"):
        code, _, err = bench(command)
        assert code == 4
        assert f"{path.name} was edited: metrics.average.R@1.value must be 100.0" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "-m", "pic2wrod", "-t", "emoji"], 2, "did you mean pic2word"),
        (["run", "-m", "pic2word", "-t", "emojy"], 2, "did you mean emoji"),
        (["run", "-m", "image-only", "-t", "emoji", "-b", "emoji-clop"], 2, "emoji-clip"),
        (["run", "-m", "image-only", "-t", "emoji", "--split", "dev"], 2, "known: test, val"),
        (["run", "-m", "image-only", "-t", "emoji", "--protocol", "x"], 2, "known: emoji"),
        (["run", "-m", "image-only", "-t", "emoji", "--device", "cuda:7"], 2, "cuda:7"),
        (["run", "-m", "image-only", "-t", "emoji", "--precision", "fp8", *FAKE], 2, "fp32, bf16"),
        (["run", "-m", "image-only", "-t", "emoji", "--nonsense"], 2, "nonsense"),
        (["run", "-m", "pic2word", "-t", "emoji", *FAKE], 3, "needs --checkpoint"),
        (["run", "-m", "pic2word", "-t", "emoji", *FAKE, "--checkpoint", "x.pt"], 3, "x.pt"),
        (["run", "-m", "pic2word", "-t", "emoji", "--checkpoint", "pic2wrd=x"], 2, "mean pic2word"),
        (["run", "-m", "pic2word", "-t", "emoji", "--checkpoint", "a=b/x.pt"], 2, "unknown method"),
        (
            ["run", "-m", "image-only", "-t", "emoji", "-b", "hf:/none"],
            3,
            "a folder that exists, got /none",
        ),
        (
            ["run", "-m", "image-only", "-t", "emoji", "-b", "local-dir:no"],
            3,
            "a folder that exists, got no",
        ),
        (["run", "-m", "image-only", "-t", "emoji", "-o", "/dev/null/x", "-q"], 2, "can't write"),
        (["run", "-m", "pic2word", "-t", "emoji", "-b", "emojiclip"], 2, "did you mean emoji-clip"),
        (["search", "-m", "pic2word", "-m", "image-text", "--gallery", "emoji"], 2, "takes one"),
        (
            [
                "train",
                "pic2word",
                "--images",
                "emoji",
                "-b",
                "fake",
                "-o",
                "m.safetensors",
                "--lr",
                "-1",
            ],
            2,
            "--lr",
        ),
        (["leaderboard"], 3, "make one with bench run"),
        (["info", "nothing"], 2, "bench ls"),
        (["ls", "methodz"], 2, "methods"),
        (
            ["train", "pic2word", "--images", "nowhere", "-b", "fake", "-o", "m.safetensors"],
            3,
            "nowhere",
        ),
        (["train", "pic2word", "--images", "emoji", "-b", "fake", "-o", "m.bin"], 2, "safetensors"),
    ],
)
def test_mistakes_end_in_one_clear_error(bench, tmp_path, arguments, code, words):
    ended, out, err = bench(*arguments)
    assert ended == code
    assert words in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_truncated_image_is_named_with_its_row_and_nothing_is_stored(
    bench, folder_task, tmp_path
):
    broken = folder_task / "07.png"
    broken.write_bytes(broken.read_bytes()[:100])
    code, _, err = bench("run", "-m", "image-only", "-t", "folder", "-q")
    assert code == 4
    assert "07.png (row 7" in err
    assert not list((tmp_path / "results").glob("*/*"))


def test_a_disk_that_fills_up_leaves_no_part_of_a_record(bench, folder_task, monkeypatch, tmp_path):
    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez_compressed", full)
    code, _, err = bench("run", "-m", "image-only", "-t", "folder", *FAKE, "-o", tmp_path / "out")
    assert code == 2
    assert "No space left on device" in err
    assert "Traceback" not in err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_an_empty_gallery_is_refused(bench, folder_task):
    for path in folder_task.iterdir():
        path.unlink()
    code, _, err = bench("run", "-m", "image-only", "-t", "folder")
    assert code == 3
    assert "0 gallery images" in err


def test_a_prompt_without_placeholder_is_refused(bench, folder_task, tmp_path):
    import torch

    from cirbench.methods.pic2word.method import MappingNetwork

    torch.save(MappingNetwork(32, 24).state_dict(), tmp_path / "m.pt")
    code, _, err = bench("run", "-m", "pic2word", "-t", "folder", "--checkpoint", "m.pt", "-q")
    assert code == 2
    assert "no placeholder" in err


def test_a_checkpoint_with_executable_pickle_is_refused(bench, tmp_path):
    import torch

    class Trap:
        def __reduce__(self):
            return io.open, (str(tmp_path / "sprung"), "w")

    torch.save({"state_dict_img2text": Trap()}, tmp_path / "m.pt")
    code, _, err = bench("run", "-m", "pic2word", "-t", "emoji", *FAKE, "--checkpoint", "m.pt")
    assert code == 4
    assert "refused" in err
    assert not (tmp_path / "sprung").exists()


def test_train_then_run_with_the_result(bench, picture_folder, folder_task):
    train = [
        "train",
        "pic2word",
        "--images",
        picture_folder,
        "-b",
        "fake",
        "-o",
        "m.safetensors",
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--warmup",
        "1",
        "-q",
    ]
    code, out, _ = bench(*train)
    assert code == 0
    assert "6 steps on 24 images" in out
    code, out, _ = bench(
        "run", "-m", "pic2word", "-t", "emoji", *FAKE, "--checkpoint", "m.safetensors", "--json"
    )
    assert code == 0
    assert json.loads(out)["cell"]["trained_on"] == "pictures"


def test_ls_and_info(bench):
    assert "pic2word" in bench("ls")[1]
    assert set(json.loads(bench("ls", "tasks", "--json")[1])["tasks"]) >= {"emoji"}
    described = json.loads(bench("info", "emoji", "--json")[1])
    assert described["protocols"]["emoji"]["templates"]["pseudo-word"] == "a {style} of *"
    assert len(described["protocols"]["emoji"]["hash"]) == 12
    assert "2302.03084" in bench("info", "pic2word")[1]
    assert json.loads(bench("info", "fake", "--json")[1])["backbone"] == "fake"
    assert json.loads(bench("env", "--json")[1])["packages"]["torch"]


def test_the_version_comes_with_the_commit(bench):
    commit = json.loads(bench("env", "--json")[1])["code"]["commit"]
    assert bench("--version") == (0, f"cirbench {version('cirbench')}, commit {commit}\n", "")


def test_a_shell_completes_names(bench, monkeypatch):
    monkeypatch.setenv("_BENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "bench run --method pic")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert bench()[1].split() == ["pic2word"]


def test_an_unknown_variable_draws_a_warning(bench, monkeypatch):
    monkeypatch.setenv("CIRBENCH_RESULT", "x")
    _, _, err = bench("ls")
    assert "unknown variable CIRBENCH_RESULT" in err


RESULTS = ["--output", str(RESULTS)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["ls"],
        ["run", "-m", "x"],
        ["report", "--check", *RESULTS],
        ["leaderboard", "--check", *RESULTS],
        ["compare", "pic2word", "image-text", *RESULTS],
        ["audit", "emoji", "--json", *RESULTS],
        ["verify", *RESULTS],
        ["run", "-m", "pic2word", "-t", "emoji", "--dry-run"],
        ["run", "-m", "nope", "-t", "emoji"],
        ["info", "emoji"],
        ["info", "pic2word"],
        ["cache", "ls"],
        ["weights"],
        ["weights", "where", "lincir"],
        ["run", "-m", "lincir", "-t", "emoji", "-b", "ViT-L-14/openai", "--dry-run"],
        ["cache", "verify"],
        ["data", "check", "emoji"],
        ["run", "-m", "pic2word", "-t", "emoji", "--checkpoint", "nope.pt"],
    ],
)
def test_light_commands_import_nothing_heavy(arguments):
    code = (
        "import sys; sys.argv = ['bench', *sys.argv[1:]]\n"
        "from cirbench.benchmark.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "names = {'torch', 'transformers', 'open_clip', 'pandas', 'matplotlib'}\n"
        "heavy = names & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    "group", [[], ["train"], ["sweep"], ["data"], ["export"], ["cache"], ["weights"]]
)
def test_a_commands_summary_fits_its_line(bench, group):
    code, out, _ = bench(*group, "--help")
    _, _, commands = out.partition("Commands:\n")
    assert code == 0
    assert commands
    assert "..." not in commands


@pytest.mark.parametrize(("given", "found"), [(None, "10000"), ("7", "7")])
def test_waiting_threads_sleep_soon_unless_told_otherwise(bench, monkeypatch, given, found):
    monkeypatch.setenv("GOMP_SPINCOUNT", given or "")  # what it was comes back after the test
    if not given:
        del os.environ["GOMP_SPINCOUNT"]
    bench("ls")
    assert os.environ["GOMP_SPINCOUNT"] == found


def test_ctrl_c_ends_in_130(bench, folder_task, monkeypatch):
    from cirbench.benchmark.evaluation import embed

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(embed, "embed_with", interrupted)
    code, _, err = bench("run", "-m", "image-only", "-t", "folder")
    assert code == 130
    assert "0 of 1 records are stored" in err


def test_the_plug_in_package_is_found_and_runs(bench):
    assert "negated-image" in bench("ls", "methods")[1]
    code, out, _ = bench("run", "-m", "negated-image", "-t", "emoji", *FAKE, "--json")
    assert code == 0
    assert json.loads(out)["cell"]["method"] == "negated-image"


def test_all_is_every_method_that_has_its_weights_here(tmp_path):
    def chosen(**changes):
        request = Request(methods=("all",), task="emoji", **changes)
        return {
            method.name for method in plan_methods(request, changes.get("backbone", "emoji-clip"))
        }

    assert {"image-only", "pic2word"} <= chosen()
    assert "context-i2w" not in chosen()
    assert "pic2word" not in chosen(backbone="fake")
    weights = tmp_path / "a.pt"
    weights.touch()
    assert "searle" in chosen(backbone="fake", checkpoints={"searle": weights})
