"""Sweeps without a cluster: the file and its mistakes, the folder, local jobs, and what is told."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from layouts import write_layout
from patience import wait_until
from places import ROOT
from sweeping import SHARDS, TOWERS, TRAINING, TWO_TASKS, Sweeps, install_faults

from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.cli.sweep import wait_for_end
from cirbench.benchmark.records.record import read_record
from cirbench.benchmark.runtime.errors import CheckFailed
from cirbench.slurm import status
from cirbench.slurm.cells.manifest import (
    FAILED,
    QUEUED,
    RUNNING,
    STATES,
    Manifest,
    State,
    Submission,
    SweepCell,
    SweepPlan,
)
from cirbench.slurm.choose import RETRIED, adjust_after_oom, choose_to_retry
from cirbench.slurm.node import worker
from cirbench.slurm.queues import local
from cirbench.slurm.queues import squeue as queue
from cirbench.slurm.queues.squeue import QueuedJob
from cirbench.slurm.status import LOST, CellStatus, refresh_status
from cirbench.slurm.submit import group_into_arrays

EXPECTED = Path(__file__).with_name("sweep.sbatch")


SUPERVISED = ("tirg", "maaf", "artemis", "cirplant")
ONE = 'methods = ["image-only"]\ntasks = ["emoji"]\n'
PIC2WORD = 'methods = ["pic2word"]\ntasks = ["emoji"]\nbackbones = ["fake"]\n'


@pytest.fixture
def sweeps(tmp_path, monkeypatch, capsys):
    """`bench sweep` in a folder of its own, with the faults installed."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("CIRBENCH_DATA", raising=False)
    install_faults(tmp_path, monkeypatch)
    return Sweeps(tmp_path, monkeypatch, capsys)


@pytest.fixture
def slurm(monkeypatch):
    """A Slurm that answers what a test puts in: job id → QueuedJob."""
    answers: dict[str, QueuedJob] = {}
    monkeypatch.setattr(queue, "list_jobs", lambda: answers)
    monkeypatch.setattr(queue, "read_accounts", lambda jobs: {})
    return answers


def sent_to_slurm(manifest: Manifest, *states: State, needs=((),)) -> list[str]:
    """A sweep of one array, job 7; gives the cells' names."""
    names = [f"cell-{i}" for i in range(len(states))]
    manifest.write_plan(SweepPlan(name=manifest.name, cells=tuple(names)))
    manifest.write_submission(
        Submission(id="s", cluster="slurm", cells=(*names, "another"), job="7")
    )
    for place, (name, state) in enumerate(zip(names, states, strict=True)):
        need = needs[place] if place < len(needs) else ()
        expected = {"method": name}
        manifest.write_cell(
            SweepCell(
                id=name, kind="run", request={"methods": [name]}, expected=expected, needs=need
            )
        )
        manifest.write_state(name, State(**{**vars_of(state), "submission": "s", "place": place}))
    return names


def vars_of(state: State) -> dict:
    return {key: getattr(state, key) for key in ("status", "reason", "started", "attempts")}


# --- the file


def test_every_mistake_is_told_at_once_and_nothing_is_written(sweeps):
    file = sweeps.file(
        "wrong",
        """
methods = ["pic2wrod", "image-*", "nothing-*"]
tasks = ["emojy", "emoji", "cirr"]
backbones = ["emoji-clop", "fake"]
protocols = ["emoji"]
seeds = ["one"]
methds = 1
[settings]
batchsize = 3
limit = 0
[checkpoints.pic2word]
fake = "nowhere.pt"
[[exclude]]
method = "text-only"
[resources]
timeout_min = 0
partition = "gpu"
""",
    )
    code, out, err = sweeps("submit", file)
    assert code == 2
    for said in (
        "did you mean pic2word",
        "no method fits 'nothing-*'",
        "did you mean emoji?",
        "emoji-clip",
        "seeds must be a non-empty list",
        "unknown key 'methds'; did you mean methods",
        "did you mean batch_size?",
        "[settings]: limit must be a positive integer, got 0",
        "excludes nothing",
        "[resources]: timeout_min must be a positive number, got 0",
        "partition",
        "task cirr has no protocol 'emoji'",
    ):
        assert said in err, said
    assert out == ""
    assert not (sweeps.folder / "sweeps").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methods = [", "not valid TOML"),
        (PIC2WORD, "needs --checkpoint"),
        (f'{PIC2WORD}[checkpoints]\npic2word = "nowhere.pt"', "no checkpoint at"),
        ('methods = ["image-only"]\ntasks = ["cirr"]', "task cirr needs its data"),
        (f'{ONE}[[exclude]]\ntask = "*"', "the sweep is empty after [[exclude]]"),
        (f'name = "../x"\n{ONE}', "a sweep's name must be of letters"),
        (f'{ONE}[[train]]\nmethod = "x"', "(pic2word, combiner, "),
        (f'{ONE}[[train]]\nmethod = "combiner"\nbackbone = "fake"', "combiner lacks task"),
        (f'{ONE}[[train]]\nmethod = "combiner"\nbackbone = "fake"\ntask = "coco"', "triplets"),
        (
            f'{ONE}[[train]]\nmethod = "pic2word"\nbackbone = "fake"\nimages = "emoji"\n'
            "batch_size = 7\n[resources]\ntasks_per_node = 2",
            "a batch of 7 is not split evenly over 2 tasks",
        ),
    ],
)
def test_one_mistake_is_one_line(sweeps, text, said):
    ended, out, err = sweeps("submit", sweeps.file("one", text))
    assert (ended, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_axes_globs_exclusions_and_overrides_make_the_cells(sweeps):
    file = sweeps.file(
        "axes",
        """
methods = ["image-*", "text-only"]
tasks = ["emoji"]
backbones = ["fake", "default"]
seeds = [0, 1]
[[exclude]]
method = "text-only"
seed = 1
[[override]]
method = "image-text"
mem_gb = 9
""",
    )
    code, out, _ = sweeps("submit", file, "--dry-run", "--json")
    planned = json.loads(out)
    runs = [cell for cell in planned["cells"] if not cell["cell"].startswith("embed")]
    assert code == 0
    assert len(runs) == 2 * 3, "training-free methods have one seed"
    assert len(planned["cells"]) - len(runs) == 2
    assert all(len(cell["needs"]) == 1 for cell in runs)
    assert sum("--mem=9216MB" in script for script in planned["scripts"]) == 2
    assert not (sweeps.folder / "sweeps").exists()


def test_two_processes_train_what_one_does(sweeps, picture_folder):
    text = TRAINING.format(images=picture_folder, epochs=5)
    trained, losses = [], []
    for name, more in (("one", ""), ("two", TWO_TASKS)):
        assert sweeps("submit", sweeps.file(name, text + more), "--cluster", "local")[0] == 0
        rows = sweeps.wait(name)
        assert {row.state.status for row in rows.values()} == {"done"}
        path = sweeps.manifest(name).folder / "checkpoints/pic2word--fake--s0.safetensors"
        trained.append(read_checkpoint(path).provenance["recipe"])
        log = path.with_suffix(".log.csv").read_text(encoding="utf-8").splitlines()
        losses.append(float(log[1].split(",")[1]))
    assert trained[0] == trained[1]
    # later steps begin from weights that AdamW has moved by the last digits of tiny gradients
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_task_that_fails_gives_the_cell_its_reason(sweeps, picture_folder, monkeypatch):
    for picture in picture_folder.iterdir():
        picture.write_bytes(b"no picture")
    text = TRAINING.format(images=picture_folder, epochs=5) + TWO_TASKS
    assert sweeps("submit", sweeps.file("broken", text), "--cluster", "local")[0] == 0
    row = sweeps.wait("broken")["train"]
    assert row.state.status == "failed"
    assert "cannot be decoded" in row.state.reason


def test_a_trained_trunk_is_the_backbone_of_its_runs(sweeps):
    file = sweeps.file("towers", TOWERS.format(epochs=1))
    planned = json.loads(sweeps("submit", file, "--dry-run", "--json")[1])["cells"]
    needs = {cell["cell"].rsplit("--", 1)[0]: cell["needs"] for cell in planned}
    counts = [len(needs[f"artemis--emoji--emoji--{name}--s0"]) for name in ("tiny", "emoji-clip")]
    assert counts == [1, 2], "the trunk as it was at first is not embedded for its runs"
    assert "embed--emoji--emoji--tiny" not in needs

    assert sweeps("submit", file, "--cluster", "debug")[0] == 0
    rows = refresh_status(sweeps.manifest("towers"))
    assert {row.cell.id: row.state.reason for row in rows if row.state.status != "done"} == {}
    found = {row.cell.id: row.record for row in rows if row.record}
    assert len(set(found.values())) == len(found) == 4
    records = [read_record(path) for path in found.values()]
    assert sorted(
        (r.cell.backbone.partition("+")[0], r.checkpoint.backbone if r.checkpoint else "")
        for r in records
    ) == [
        ("emoji-clip", ""),
        ("emoji-clip", "emoji-clip"),
        ("tiny", ""),
        ("trained:artemis", "tiny"),
    ]
    assert sweeps("collect", "towers")[0] == 0
    assert len(list((sweeps.folder / "results-partial/emoji").glob("*.json"))) == 4
    assert "nothing to submit" in sweeps("submit", file, "--cluster", "debug")[2]


def test_a_file_of_trained_towers_is_told_by_its_content(sweeps):
    file = sweeps.file("towers", TOWERS.format(epochs=1))
    sweeps("submit", file, "--cluster", "debug")
    weights = sweeps.manifest("towers").folder / "checkpoints/artemis--tiny--s0.safetensors"
    text = (
        'methods = ["artemis"]\ntasks = ["emoji"]\nbackbones = ["tiny"]\n'
        f'[settings]\nlimit = 1\n[checkpoints]\nartemis = "{weights}"\n'
    )
    assert sweeps("submit", sweeps.file("given", text), "--cluster", "debug")[0] == 0
    assert sweeps.statuses("given") == {"artemis": "done"}


def shard_file(sweeps, name, more, methods=("image-only", "image-text")):
    text = SHARDS.format(methods=json.dumps(methods), backbone="fake", more=more)
    return sweeps.file(name, text)


def test_the_shards_of_an_embedding_are_an_array_that_its_runs_wait_for(sweeps):
    planned = json.loads(
        sweeps("submit", shard_file(sweeps, "kin", "embed_tasks = 3"), "--dry-run", "--json")[1]
    )
    shards = [cell["cell"] for cell in planned["cells"] if cell["cell"].startswith("embed")]
    assert [name.split("--")[4] for name in shards] == ["1-of-3", "2-of-3", "3-of-3"]
    runs = [cell for cell in planned["cells"] if not cell["cell"].startswith("embed")]
    assert [cell["needs"] for cell in runs] == [shards, shards]
    array, waiting = planned["scripts"]
    assert "#SBATCH --array=0-2" in array
    assert waiting.count("afterok:JOB-OF-embed--kin") == 3

    one = shard_file(sweeps, "one", "embed_tasks = 3", methods=["image-only"])
    planned = json.loads(sweeps("submit", one, "--dry-run", "--json")[1])
    assert len(planned["cells"]) == 4, "a single run's pictures are shared out, too"
    many = shard_file(sweeps, "many", "embed_tasks = 500")
    planned = json.loads(sweeps("submit", many, "--dry-run", "--json")[1])
    assert len(planned["cells"]) == 2 + 12, "768 pictures are 12 batches"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("embed_tasks = 769", "no more than its 768 pictures, got 769"),
        ("embed_tasks = 0", "embed_tasks must be a positive integer, got 0"),
    ],
)
def test_shards_that_cannot_be_are_refused(sweeps, more, said):
    code, _, err = sweeps("submit", shard_file(sweeps, "wrong", more), "--dry-run")
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_a_sweep_of_shards_makes_the_records_of_one_job(sweeps, monkeypatch):
    found = {}
    for name, more in (("whole", ""), ("parts", "embed_tasks = 3")):
        monkeypatch.setenv("CIRBENCH_CACHE", str(sweeps.folder / f"cache-{name}"))
        assert sweeps("submit", shard_file(sweeps, name, more), "--cluster", "debug")[0] == 0
        rows = [row for row in refresh_status(sweeps.manifest(name)) if row.record]
        records = [read_record(row.record) for row in rows]
        found[name] = [(r.per_query.sha256, r.metrics, r.fingerprints) for r in records]
        assert [r.counts.image_passes for r in records] == [0, 0]
    assert len(found["parts"]) == 2
    assert found["parts"] == found["whole"]


def test_shards_of_several_commits_are_told_and_a_retry_mends_them(sweeps):
    file = shard_file(sweeps, "mixed", "embed_tasks = 2", methods=["image-only"])
    assert sweeps("submit", file, "--cluster", "debug")[0] == 0
    manifest = sweeps.manifest("mixed")
    [first, second, run] = manifest.read_plan().cells
    state = manifest.read_state(second)
    assert state.spaces == manifest.read_state(first).spaces
    sweeps.rows("mixed")["image-only"].record.unlink()
    manifest.write_state(second, replace(state, spaces=("another",)))

    assert worker.work(manifest.cell_path(run)).status == FAILED
    reason = manifest.read_state(run).reason
    assert "must be of one code, backbone and kind of device; 1/2 and 2/2 are not" in reason
    rows = {row.cell.id: row.state for row in refresh_status(manifest)}
    assert [rows[cell].status for cell in (first, second)] == [FAILED, FAILED]
    assert rows[first].reason == reason
    assert sweeps("retry", "mixed", "--cluster", "debug")[0] == 0
    assert {row.state.status for row in refresh_status(manifest)} == {"done"}


def test_what_a_cell_waits_for_is_named_with_its_node(tmp_path, slurm):
    manifest = Manifest(folder=tmp_path / "s")
    states = [State(status="done"), State(status=RUNNING), State(status=QUEUED)]
    sent_to_slurm(
        manifest, *states, State(status=QUEUED), needs=[(), (), (), ("cell-0", "cell-1", "cell-2")]
    )
    manifest.write_cell(SweepCell(id="cell-0", kind="embed", request={}))
    slurm["7_1"] = QueuedJob(id="7_1", status=RUNNING, reason="", node="gpu17")
    slurm["7_2"] = QueuedJob(id="7_2", status=QUEUED, reason="Priority")
    slurm["7_3"] = QueuedJob(id="7_3", status=QUEUED, reason="Dependency")
    rows = refresh_status(manifest)
    assert rows[3].state.reason == "waits for cell-1, running on gpu17 and 1 more"


def test_a_tuned_backbone_has_its_record(sweeps):
    weights = ROOT / "datasets/emoji/clip/open_clip_model.safetensors"
    text = (
        f'methods = ["image-only"]\ntasks = ["emoji"]\nbackbones = ["tuned:emoji-clip@{weights}"]\n'
    )
    file = sweeps.file("tuned", f"{text}[settings]\nlimit = 1\n")
    assert sweeps("submit", file, "--cluster", "debug")[0] == 0
    assert sweeps.statuses("tuned") == {"image-only": "done"}


COMBINER = """
methods = ["combiner"]
tasks = ["emoji"]
backbones = ["fake"]
seeds = [0, 1]
[settings]
limit = 1
[[train]]
method = "combiner"
backbone = "fake"
task = "emoji"
epochs = 1
projection = 4
hidden = 8
"""


def test_a_combiner_is_trained_then_evaluated(sweeps):
    assert sweeps("submit", sweeps.file("triplets", COMBINER), "--cluster", "debug")[0] == 0
    rows = refresh_status(sweeps.manifest("triplets"))
    assert {row.state.status for row in rows} == {"done"}
    records = [
        json.loads(row.record.read_text(encoding="utf-8")) for row in rows if row.cell.kind == "run"
    ]
    assert [record["cell"]["trained_on"] for record in records] == ["emoji"] * 2
    assert len({record["cell"]["checkpoint"] for record in records}) == 2


LINCIR = """
methods = ["lincir"]
tasks = ["emoji"]
backbones = ["fake"]
[settings]
limit = 1
[[train]]
method = "lincir"
backbone = "fake"
texts = "./captions.txt"
steps = 2
batch_size = 2
hidden = 8
keywords = "function-words"
select_on = "none"
"""


def test_a_training_on_captions_finds_them_wherever_its_job_starts(sweeps):
    (sweeps.folder / "captions.txt").write_text("a dog\na red cat\n", encoding="utf-8")
    assert sweeps("submit", sweeps.file("texts", LINCIR), "--cluster", "debug")[0] == 0
    rows = refresh_status(sweeps.manifest("texts"))
    assert {row.state.status for row in rows} == {"done"}
    [trained] = [row.cell for row in rows if row.cell.kind == "train"]
    assert trained.request["texts"] == str(sweeps.folder / "captions.txt")
    (sweeps.folder / "captions.txt").unlink()
    code, _, err = sweeps("submit", sweeps.file("again", LINCIR), "--cluster", "debug")
    assert code != 0
    assert "--texts must be a file of captions or a task" in err


SEARLE = """
methods = ["searle"]
tasks = ["emoji"]
backbones = ["fake"]
[settings]
limit = 1
[[train]]
method = "searle"
backbone = "fake"
images = "{folder}"
concepts = "{concepts}"
inversion_steps = 2
epochs = 1
batch_size = 8
hidden = 8
"""


def test_searle_is_trained_on_images_then_evaluated(sweeps, picture_folder):
    concepts = sweeps.folder / "concepts.txt"
    concepts.write_text("dog\nred car\n", encoding="utf-8")
    text = SEARLE.format(folder=picture_folder, concepts=concepts)
    assert sweeps("submit", sweeps.file("words", text), "--cluster", "debug")[0] == 0
    rows = refresh_status(sweeps.manifest("words"))
    assert {(row.cell.kind, row.state.status) for row in rows} == {
        ("train", "done"),
        ("run", "done"),
    }
    [record] = [row.record for row in rows if row.cell.kind == "run"]
    assert json.loads(record.read_text(encoding="utf-8"))["cell"]["trained_on"] == "pictures"


def test_the_sbatch_script_is_the_golden_one(sweeps, monkeypatch):
    (sweeps.folder / "profile.toml").write_text(
        '[resources]\nslurm_partition = "gpu"\nslurm_account = "me"\ngpus_per_node = 1\n'
        'slurm_array_parallelism = 2\nslurm_setup = ["source venv/bin/activate"]\n',
        encoding="utf-8",
    )
    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    file = sweeps.file("golden", methods=["image-only", "image-text", "text-only"])
    _, out, _ = sweeps(
        "submit", file, "--profile", "profile.toml", "--dry-run", "--json", "--no-snapshot"
    )
    script = json.loads(out)["scripts"][1].replace(str(sweeps.folder), "/cluster")
    assert script == EXPECTED.read_text(encoding="utf-8")


def test_shipped_files_are_sound(sweeps, tmp_path, monkeypatch):
    _, out, _ = sweeps("submit", "emoji", "--profile", "slurm-example", "--dry-run", "--json")
    assert len(json.loads(out)["cells"]) == 10
    code, _, err = sweeps("submit", "paper", "--profile", "local-example", "--dry-run")
    assert code == 2
    for task in ("imagenet-r", "fashion-iq", "cirr"):
        assert f"task {task} needs its data" in err
    assert "$PIC2WORD names a variable that is not set" in err
    assert "unknown" not in err


def test_the_supervised_sweep_trains_and_asks_what_it_says(sweeps, tmp_path):
    for task in ("fashion-iq", "cirr"):
        write_layout(task, tmp_path)
    code, out, err = sweeps(
        "submit",
        "supervised",
        "--data-root",
        tmp_path,
        "--profile",
        "slurm-example",
        "--dry-run",
        "--json",
    )
    assert code == 0, err
    cells = [cell["cell"].rsplit("--", 1)[0] for cell in json.loads(out)["cells"]]
    assert {cell for cell in cells if cell.startswith("train")} == {
        "train--tirg--torchvision-resnet18--s0",
        "train--maaf--torchvision-resnet50--s0",
        "train--artemis--torchvision-resnet50--s0",
        "train--cirplant--torchvision-resnet152--s0",
        *(f"train--{method}--features-2048--s0" for method in SUPERVISED),
    }
    assert {cell for cell in cells if cell.startswith("embed")} == {
        f"embed--cirr--{protocol}--features-2048" for protocol in ("soft", "pic2word", "clip4cir")
    }, "of Fashion-IQ's runs each has towers of its own"
    own = {"tirg": "maaf", "maaf": "maaf", "artemis": "artemis", "cirplant": "maaf"}
    asked = {(cell.split("--")[0], *cell.split("--")[1:3]) for cell in cells}
    for method in SUPERVISED:
        assert {p for m, t, p in asked if (m, t) == (method, "cirr")} == {
            "soft",
            "pic2word",
            "clip4cir",
        }
        assert {p for m, t, p in asked if (m, t) == (method, "fashion-iq")} == {
            own[method],
            "pic2word",
            "clip4cir",
        }


def test_a_wish_for_no_such_profile_or_cluster_is_told(sweeps):
    file = sweeps.file("wish")
    assert "shipped name: local-example" in sweeps("submit", file, "--profile", "mine")[2]
    code, _, err = sweeps("submit", file, "--cluster", "pbs")
    assert code == 2
    assert "known: slurm, local, debug" in err


# --- running, in this process and as local jobs


def test_debug_runs_here_and_a_second_submit_finds_nothing_left(sweeps):
    file = sweeps.file("here", methods=["image-only", "crash", "text-only"])
    code, _, err = sweeps("submit", file, "--cluster", "debug")
    assert code == 1
    assert "not done: crash" in err
    assert sweeps.statuses("here") == {
        "embed": "done",
        "image-only": "done",
        "crash": "failed",
        "text-only": "done",
    }
    planned = json.loads(sweeps("submit", file, "--dry-run", "--json")[1])
    assert planned["to submit"] == 1
    assert len(planned["scripts"]) == 1
    first = sweeps.rows("here")["image-only"].state
    sweeps("submit", file, "--cluster", "debug")
    assert sweeps.rows("here")["image-only"].state == first
    assert sweeps.rows("here")["crash"].state.attempts == 2


def test_local_jobs_survive_each_others_faults(sweeps):
    faults = ["image-only", "crash", "killed"]
    file = sweeps.file("faults", methods=faults)
    assert sweeps("submit", file, "--cluster", "local", "--no-snapshot")[0] == 0
    rows = sweeps.wait("faults")
    assert rows["image-only"].state.status == "done"
    assert rows["crash"].state.reason == "RuntimeError: it broke [here]"
    assert len(rows["crash"].state.log) == 20
    assert rows["killed"].state.reason == "its process ended without reporting a result"
    code, out, _ = sweeps("status", "faults")
    assert code == 0
    assert "RuntimeError: it broke [here]" in out
    assert out.splitlines()[-1] == "2 done, 2 failed"
    assert "it broke [here]" in sweeps("logs", "faults", "crash")[1]


def test_a_local_cell_out_of_time_begins_again(sweeps):
    text = (
        sweeps.file("late", methods=["slow"]).read_text(encoding="utf-8")
        + "slurm_signal_delay_s = 40\n"
    )
    file = sweeps.file("late", text.replace("timeout_min = 30", "timeout_min = 1"))
    sweeps("submit", file, "--cluster", "local", "--no-snapshot")
    state = sweeps.wait("late")["slow"].state
    assert state.status == "done"
    assert state.attempts > 1


def test_a_machine_without_linuxes_list_of_processes_is_refused(sweeps, monkeypatch):
    monkeypatch.setattr(local, "_PROCESSES", sweeps.folder / "none")
    file = sweeps.file("mac", methods=["image-only"])
    code, _, err = sweeps("submit", file, "--cluster", "local", "--no-snapshot")
    assert code == 2
    assert "--cluster local needs Linux" in err
    assert sweeps.statuses("mac") == {"image-only": "planned"}


def test_cancel_ends_a_local_sweep_and_what_it_started(sweeps):
    file = sweeps.file("stop", methods=["sleeper"])
    sweeps("submit", file, "--cluster", "local", "--no-snapshot")
    wait_until((sweeps.folder / "sleeper").exists, "begin")
    [submission] = sweeps.manifest("stop").read_submissions().values()
    assert sweeps("cancel", "stop")[1] == "stop: 1 cells cancelled\n"
    assert sweeps.statuses("stop") == {"sleeper": "cancelled"}
    assert not local.is_alive(submission)
    assert not local._list_members(submission.process["id"])


def test_a_local_queue_that_was_killed_leaves_failures_and_not_silence(sweeps):
    file = sweeps.file("gone", methods=["sleeper"])
    sweeps("submit", file, "--cluster", "local", "--no-snapshot")
    wait_until((sweeps.folder / "sleeper").exists, "begin")
    manifest = sweeps.manifest("gone")
    [submission] = manifest.read_submissions().values()
    subprocess.run(["pkill", "-KILL", "-g", str(submission.process["id"])], check=True)
    wait_until(lambda: not local.is_alive(submission), "end")
    assert sweeps.rows("gone")["sleeper"].state.reason == LOST


def test_an_installed_wheel_is_not_copied(sweeps, monkeypatch, tmp_path):
    from cirbench.benchmark.runtime import provenance
    from cirbench.slurm.queues.snapshot import choose_code

    monkeypatch.setattr(provenance, "find_source_root", lambda: tmp_path / "site-packages")
    code = choose_code(sweeps.manifest("snap"))
    assert (code.folder, code.commit) == (None, provenance.read_code_state()["commit"])


def test_jobs_run_the_code_that_was_submitted(sweeps, monkeypatch):
    from cirbench.benchmark.runtime import provenance
    from cirbench.slurm.queues.snapshot import build_snapshot, choose_code

    # in an installed wheel, too, the snapshot is made of the checkout
    monkeypatch.setattr(provenance, "find_source_root", lambda: ROOT)
    code = choose_code(sweeps.manifest("snap"))
    build_snapshot(code)
    build_snapshot(choose_code(sweeps.manifest("snap")))
    assert [path.name for path in code.folder.parent.iterdir()] == [code.folder.name]
    environment = {**code.environment, "PATH": ""}
    command = [
        "-c",
        "from cirbench.benchmark.runtime import provenance as p; "
        "print(p.__file__, p.read_code_state())",
    ]
    told = subprocess.run(
        [sys.executable, *command],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert told.stdout.startswith(str(code.folder))
    assert str(code.commit) in told.stdout


def test_fail_fast_lets_nothing_begin_after_a_failure(sweeps):
    file = sweeps.file("fast", methods=["crash", "image-only", "text-only"])
    sweeps("submit", file, "--cluster", "debug", "--fail-fast")
    statuses = sweeps.statuses("fast")
    assert (statuses["crash"], statuses["image-only"]) == ("failed", "skipped")
    assert "--fail-fast: crash" in sweeps.rows("fast")["text-only"].state.reason
    sweeps("submit", file, "--cluster", "debug")
    assert sweeps.statuses("fast")["text-only"] == "done"


def test_oom_is_retried_with_half_the_batch_or_twice_the_memory(sweeps):
    file = sweeps.file("small", methods=["greedy"])
    sweeps("submit", file, "--cluster", "debug")
    assert sweeps.statuses("small") == {"greedy": "oom"}
    sweeps("retry", "small", "--oom", "--cluster", "debug")
    row = sweeps.rows("small")["greedy"]
    assert (row.state.status, row.cell.request["batch_size"]) == ("done", 32)

    (sweeps.folder / "greedy").unlink()
    (sweeps.folder / "big.toml").write_text('on_oom = "double-memory"\n', encoding="utf-8")
    sweeps(
        "submit",
        sweeps.file("more", methods=["greedy"]),
        "--cluster",
        "debug",
        "--profile",
        "big.toml",
    )
    sweeps("retry", "more", "--oom", "--cluster", "debug")
    row = sweeps.rows("more")["greedy"]
    assert (row.state.status, row.cell.resources["mem_gb"]) == ("done", 2)


def test_retry_without_states_takes_what_can_be_retried(sweeps):
    text = sweeps.file("all", methods=["crash", "greedy", "image-only"]).read_text(encoding="utf-8")
    file = sweeps.file("all", text.replace("limit = 1", "limit = 1\nbatch_size = 1"))
    sweeps("submit", file, "--cluster", "debug")
    assert sweeps.statuses("all") | {"embed": ""} == {
        "embed": "",
        "crash": "failed",
        "greedy": "oom",
        "image-only": "done",
    }
    assert sweeps("retry", "all", "--cluster", "debug")[0] == 1  # crash failed again
    assert "batch size is already 1" in sweeps("retry", "all", "--oom", "--cluster", "debug")[2]
    assert sweeps.rows("all")["crash"].state.attempts == 2
    assert sweeps.rows("all")["greedy"].state.attempts == 1


def test_what_needs_a_cell_that_cannot_be_retried_is_left_out_with_it(tmp_path):
    manifest = Manifest(folder=tmp_path / "s")
    names = sent_to_slurm(
        manifest, State(status="oom"), State(status="skipped"), needs=[(), ("cell-0",)]
    )
    cells = [replace(manifest.read_cell(name), request={"batch_size": 1}) for name in names]
    rows = [CellStatus(cell=c, state=manifest.read_state(c.id)) for c in cells]
    chosen = choose_to_retry(rows, RETRIED)
    assert [cell.id for cell in chosen] == names
    left, refusals = adjust_after_oom(manifest, rows, chosen)
    assert left == []
    assert len(refusals) == 1


def test_submit_can_wait_for_the_end_and_say_how_it_was(sweeps, monkeypatch):
    monkeypatch.setattr("cirbench.benchmark.cli.sweep.LOOK_SECONDS", 0.2)
    good = sweeps.file("good", methods=["image-only"])
    assert sweeps("submit", good, "--cluster", "local", "--no-snapshot", "--wait")[0] == 0
    assert sweeps.statuses("good") == {"image-only": "done"}
    bad = sweeps.file("bad", methods=["image-only", "crash"])
    code, _, err = sweeps("submit", bad, "--cluster", "local", "--no-snapshot", "--wait")
    assert code == 1
    assert "1 of 2 cells are not done (1 failed); bench sweep status bad says why" in err
    assert not set(sweeps.statuses("bad").values()) & {"queued", "running"}


def test_who_waits_asks_a_slurm_again_that_does_not_answer(tmp_path, slurm, monkeypatch, capsys):
    manifest = Manifest(folder=tmp_path / "s")
    sent_to_slurm(manifest, State(status=RUNNING))
    manifest.logs.mkdir()
    answers = [CheckFailed("squeue failed"), CheckFailed("squeue failed"), {}]

    def ask():
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(queue, "list_jobs", ask)
    monkeypatch.setattr("cirbench.benchmark.cli.sweep.LOOK_SECONDS", 0.01)
    [row] = wait_for_end(manifest)
    assert row.state.reason == LOST
    assert capsys.readouterr().err.count("squeue failed") == 1


def test_a_job_that_is_lost_with_its_node_again_and_again_ends(sweeps, monkeypatch):
    sweeps("submit", sweeps.file("nodes"), "--cluster", "debug")
    manifest = sweeps.manifest("nodes")
    row = sweeps.rows("nodes")["image-only"]
    done = []
    monkeypatch.setattr(
        worker, "WORK", {**worker.WORK, "run": lambda request: done.append(request) or ()}
    )
    monkeypatch.setattr(worker, "find_job_id", lambda: "7")
    running = State(status=RUNNING, job="7", node="node1", attempts=1)
    for before, ended in [
        (replace(running, losses=4), "done"),
        (replace(running, losses=5), FAILED),
        (replace(running, losses=5, job="6"), "done"),  # another job's attempt
        (replace(running, losses=5, status=QUEUED), "done"),  # it asked for this itself
    ]:
        manifest.write_state(row.cell.id, before)
        assert worker.work(manifest.cell_path(row.cell.id)).status == ended
    assert len(done) == 3
    manifest.write_state(row.cell.id, replace(running, losses=5))
    assert "lost 6 times, last with node1" in worker.work(manifest.cell_path(row.cell.id)).reason


def test_a_cell_can_be_run_by_hand(sweeps):
    from cirbench.slurm.node.worker import work

    file = sweeps.file("hand", methods=["crash", "image-only"])
    sweeps("submit", file, "--cluster", "debug")
    manifest = sweeps.manifest("hand")
    [cell] = [c for c in manifest.read_plan().cells if c.startswith("image-only")]
    record = sweeps.rows("hand")["image-only"].record
    record.unlink()
    assert sweeps.statuses("hand")["image-only"] == "failed"
    assert work(manifest.cell_path(cell)).status == "done"
    assert sweeps.statuses("hand")["image-only"] == "done"


def test_a_requeue_that_kills_its_own_command_is_no_failure(sweeps, monkeypatch):
    sweeps("submit", sweeps.file("again"), "--cluster", "debug")
    manifest = sweeps.manifest("again")
    job = worker.CellJob(str(manifest.cell_path(sweeps.rows("again")["image-only"].cell.id)))

    def preempted(_request):  # as submitit's handler of the signal does
        job.checkpoint()
        raise subprocess.CalledProcessError(-15, ["scontrol", "requeue", "3_5"])

    monkeypatch.setattr(worker, "WORK", {**worker.WORK, "run": preempted})
    with pytest.raises(SystemExit):
        job()
    state = sweeps.manifest("again").read_state(Path(job.path).stem)
    assert state.status == "queued"
    assert "requeued after preemption" in state.reason


# --- what the queue says, and the folder


def test_what_slurm_says_becomes_the_state(tmp_path, slurm):
    manifest = Manifest(folder=tmp_path / "s")
    manifest.logs.mkdir(parents=True)
    sent_to_slurm(manifest, *[State(status=RUNNING, started=1.0, attempts=1)] * 6)
    said = [
        (RUNNING, ""),
        (QUEUED, "BeginTime"),
        ("cancelled", "Slurm: CANCELLED"),
        ("timeout", "Slurm: TIMEOUT"),
        ("oom", "Slurm: OUT_OF_MEMORY"),
        (FAILED, "Slurm: NODE_FAIL"),
    ]
    for place, (state, reason) in enumerate(said):
        slurm[f"7_{place}"] = QueuedJob(id=f"7_{place}", status=state, reason=reason, node="n")
    rows = refresh_status(manifest)
    assert [(row.state.status, row.state.reason) for row in rows] == said
    slurm.clear()  # Slurm forgets; what has ended is written down, the rest is lost
    rows = refresh_status(manifest)
    assert [row.state.status for row in rows[2:]] == [state for state, _ in said[2:]]
    assert [row.state.reason for row in rows[:2]] == [LOST, LOST]


def test_squeues_own_words_are_read(monkeypatch):
    lines = (
        "12_3;FAILED;9;node0;JobLaunchFailure;s-1;\n13;FAILED;768;node0;NonZeroExitCode;s-2;\n"
        "14_0;PENDING;0;;Dependency;s-3;\n15;NEW_STATE;0;;None;a;b;\n"
        "16;OUT_OF_MEMORY;125;node0;OutOfMemory;s-4;\n17;FAILED;125;node0;None;s-5;\n"
    )
    done = subprocess.CompletedProcess([], 0, stdout=lines, stderr="")
    monkeypatch.setattr(queue, "_ask", lambda *_arguments: done)
    monkeypatch.setattr(queue, "check_slurm", lambda: None)
    jobs = queue.list_jobs()
    assert "killed by signal 9" in jobs["12_3"].reason
    assert "exit code 3" in jobs["13"].reason
    assert (jobs["14_0"].status, jobs["14_0"].reason) == (QUEUED, "Dependency")
    assert jobs["15"].status == FAILED
    assert [jobs[job].status for job in ("16", "17")] == ["oom", "oom"]


@pytest.mark.parametrize(
    ("line", "ended"),
    [
        (
            "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0. Some of your processes "
            "may have been killed by the cgroup out-of-memory handler.",
            "oom",
        ),
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks "
            "have been OOM Killed.",
            "oom",
        ),
        ("srun: error: node1: task 0: Out Of Memory", "oom"),
        ("srun: error: node1: task 0: Killed", FAILED),
        ("note: out of memory of the study", FAILED),
    ],
)
def test_what_slurm_wrote_into_the_log_tells_memory_from_other_kills(tmp_path, slurm, line, ended):
    manifest = Manifest(folder=tmp_path / "s")
    sent_to_slurm(manifest, State(status=RUNNING, attempts=1))
    manifest.logs.mkdir()
    manifest.log_path("7_0").write_text(f"embedding\n{line}\n", encoding="utf-8")
    slurm["7_0"] = QueuedJob(id="7_0", status=FAILED, reason="Slurm: FAILED, killed by signal 9")
    [row] = refresh_status(manifest)
    assert row.state.status == ended


def test_equal_rows_are_summed_up_and_what_runs_is_not(tmp_path, slurm, monkeypatch, capsys):
    manifest = Manifest(folder=tmp_path / "sweeps" / "s")
    sent_to_slurm(manifest, *[State(status=QUEUED)] * 20)
    for place in range(20):
        status, reason = (RUNNING, "") if place < 6 else (QUEUED, "Priority")
        if place in (7, 8):
            reason = "Resources"
        slurm[f"7_{place}"] = QueuedJob(id=f"7_{place}", status=status, reason=reason, node="n1")
    sweeps = Sweeps(tmp_path, monkeypatch, capsys)
    *rows, counted = sweeps("status", "s")[1].splitlines()
    assert [row.split()[:2] for row in rows[1:]] == [
        *([f"cell-{i}", "running"] for i in range(6)),
        ["cell-6", "and"],
        ["cell-7", "queued"],
        ["cell-8", "queued"],
    ]
    assert "cell-6 and 11 more" in rows[7]
    assert counted == "6 running, 14 queued"
    assert len(sweeps("status", "s", "--all")[1].splitlines()) == 22
    assert len(json.loads(sweeps("status", "s", "--json")[1])) == 20


@pytest.fixture
def accounts(monkeypatch):
    """A site with accounts: the lines that `sacct` prints, and what it was asked."""
    lines: list[str] = []
    asked: list[str] = []

    def answer(*arguments):
        asked.extend(arguments)
        return subprocess.CompletedProcess([], 0, stdout="\n".join(lines), stderr="")

    monkeypatch.setattr(queue, "_ask", answer)
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/sacct")
    return lines, asked


def test_accounts_are_asked_for_what_the_queue_forgot(accounts):
    lines, asked = accounts
    lines += ["7_0|CANCELLED by 1000|0:15|n1", "7_1|TIMEOUT|0:0|n2", "7_2|COMPLETED|0:0|n2"]
    found = queue.read_accounts(["7_0", "7_1"])
    assert {id_: job.status for id_, job in found.items()} == {"7_0": "cancelled", "7_1": "timeout"}
    assert asked[asked.index("--jobs") + 1] == "7", "an array of thousands is no line of thousands"


def test_a_job_whose_step_ran_out_of_memory_did_so_by_the_accounts(accounts):
    lines, _ = accounts
    lines += ["7_0|FAILED|137:0|n1", "7_0.batch|FAILED|137:0|n1", "7_0.0|OUT_OF_MEMORY|0:125|n1"]
    lines += ["7_1|FAILED|1:0|n1", "7_1.batch|FAILED|1:0|n1", "7_1.0|FAILED|1:0|n1"]
    found = queue.read_accounts(["7_0", "7_1"])
    assert [job.status for job in found.values()] == ["oom", FAILED]
    assert found["7_0"].reason == "Slurm: OUT_OF_MEMORY, exit code 0:125"


def test_a_job_that_ends_while_status_looks_is_believed(tmp_path, slurm, monkeypatch):
    manifest = Manifest(folder=tmp_path / "s")
    [name] = sent_to_slurm(manifest, State(status=RUNNING, attempts=1))
    real = status.find_status

    def ends_meanwhile(*arguments):
        rows = real(*arguments)
        manifest.write_state(name, State(status="timeout", reason="its own word"))
        return rows

    monkeypatch.setattr(status, "find_status", ends_meanwhile)
    refresh_status(manifest)
    assert manifest.read_state(name).reason == "its own word"


def test_no_slurm_is_one_clear_error(sweeps, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = sweeps("submit", sweeps.file("none"), "--no-snapshot")
    assert code == 2
    assert "Slurm is not available" in err
    assert sweeps.statuses("none") == {"image-only": "planned"}


def test_the_same_name_with_another_plan_is_refused(sweeps):
    sweeps("submit", sweeps.file("same"), "--cluster", "debug")
    code, _, err = sweeps(
        "submit", sweeps.file("same", methods=["text-only"]), "--cluster", "debug"
    )
    assert code == 2
    assert "belongs to another sweep of this name" in err


def test_a_manifest_damaged_by_hand_loses_no_other_cell(sweeps):
    file = sweeps.file("hurt", methods=["image-only", "text-only"])
    sweeps("submit", file, "--cluster", "debug")
    manifest = sweeps.manifest("hurt")
    names = {cell.split("--")[0]: cell for cell in manifest.read_plan().cells}
    state = manifest.folder / "states" / f"{names['embed']}.json"
    state.write_text(state.read_text(encoding="utf-8")[:20], encoding="utf-8")
    assert sweeps.statuses("hurt") == {"embed": "failed", "image-only": "done", "text-only": "done"}
    (manifest.folder / "states" / f"{names['text-only']}.json").write_text(
        '{"status": "fine"}', encoding="utf-8"
    )
    assert sweeps.statuses("hurt")["text-only"] == "done", "its record is there"

    manifest.cell_path(names["image-only"]).write_text("{}", encoding="utf-8")
    code, _, err = sweeps("status", "hurt")
    assert code == 4
    assert "submit the sweep file again" in err
    (manifest.folder / "sweep.json").write_text("half", encoding="utf-8")
    assert sweeps("status", "hurt")[0] == 4
    assert sweeps("submit", file, "--cluster", "debug")[0] == 0
    assert set(sweeps.statuses("hurt").values()) <= {"done", "failed"}
    assert sweeps.statuses("hurt")["image-only"] == "done"


def test_a_record_that_does_not_validate_is_not_done(sweeps):
    file = sweeps.file("record", methods=["image-only"])
    sweeps("submit", file, "--cluster", "debug")
    path = sweeps.rows("record")["image-only"].record
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:100], encoding="utf-8")
    assert "is not a readable record" in sweeps.rows("record")["image-only"].state.reason
    path.write_text(whole.replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    assert sweeps.statuses("record") == {"image-only": "failed"}
    sweeps("retry", "record", "--failed", "--cluster", "debug")
    assert sweeps.statuses("record") == {"image-only": "done"}


def test_a_folder_that_cant_be_written_is_one_clear_error(sweeps):
    code, _, err = sweeps(
        "submit", sweeps.file("ro"), "--cluster", "debug", "--sweeps-dir", "/proc/x"
    )
    assert code == 2
    assert "another --sweeps-dir" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status", "nobody"], 3, "no sweep 'nobody'"),
        (["logs", "known", "x"], 2, "must fit one cell, got 'x', which fits no"),
        (["logs", "known", "image"], 3, "has no log, since no job has run it"),
        (
            ["submit", "nowhere.toml"],
            3,
            "shipped name: combiner-cirr, combiner-fashion-iq, emoji, paper, supervised",
        ),
    ],
)
def test_questions_about_what_is_not_there(sweeps, arguments, code, said):
    sweeps("submit", sweeps.file("known"), "--cluster", "debug")
    ended, _, err = sweeps(*arguments)
    assert ended == code
    assert said in err


def test_gpus_of_a_machine_are_dealt_out(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    given = []

    class Executor:
        def __init__(self, **_options):
            pass

        def update_parameters(self, **asked):
            given.append(asked["visible_gpus"])

        def submit(self, _call):
            return type("Job", (), {"done": lambda _self: False})()

    monkeypatch.setattr(local.submitit, "LocalExecutor", Executor)
    asked = {"gpus_per_node": 1, "timeout_min": 1}
    cells = [SweepCell(id=f"c{i}", kind="run", request={}, resources=asked) for i in range(3)]
    work = local.LocalQueue(Manifest(folder=tmp_path), list(cells), 3)
    monkeypatch.setattr(local.time, "sleep", lambda _s: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        work.run()
    assert given == [[2], [3]]
    assert [cell.id for cell in work.waiting] == ["c2"]


def test_arrays_are_of_one_set_of_resources_and_no_longer_than_slurm_takes():
    cells = [
        SweepCell(id=str(i), kind="run", request={}, resources={"mem_gb": i % 2})
        for i in range(2100)
    ]
    made = group_into_arrays(cells)
    assert sorted(len(array.cells) for array in made) == [50, 50, 1000, 1000]
    assert all(len({c.resources["mem_gb"] for c in array.cells}) == 1 for array in made)


def test_slurm_is_asked_once_for_the_status_of_a_thousand_cells(tmp_path, slurm, monkeypatch):
    manifest = Manifest(folder=tmp_path / "s")
    names = sent_to_slurm(manifest, *[State(status=QUEUED)] * 1000)
    for place in range(len(names)):
        slurm[f"7_{place}"] = QueuedJob(id=f"7_{place}", status=QUEUED, reason="Priority")
    asked = []
    monkeypatch.setattr(queue, "list_jobs", lambda: asked.append("squeue") or slurm)
    monkeypatch.setattr(queue, "read_accounts", lambda jobs: asked.append("sacct") or {})
    assert len(refresh_status(manifest)) == 1000
    assert asked.count("squeue") == 1
    assert asked.count("sacct") <= 1


def test_states_are_the_documented_ones():
    text = (ROOT / "slurm" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{state}`" in text for state in STATES)
