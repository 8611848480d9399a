"""Sweeps on a real Slurm of two virtual nodes: what becomes of cells when things go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest
import slurm_cluster
from patience import wait_until
from places import ROOT
from sweeping import SHARDS, TOWERS, TRAINING, TWO_TASKS, Sweeps, install_faults

from cirbench.benchmark.records.record import read_record
from cirbench.slurm.cells.manifest import Manifest
from cirbench.slurm.status import refresh_status

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not slurm_cluster.available(), reason="no Slurm here; apt-get install slurm-wlm munge"
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def sweeps(cluster, tmp_path, monkeypatch, capsys):
    """`bench sweep` against the cluster, with the faults installed."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    install_faults(tmp_path, monkeypatch)
    return Sweeps(tmp_path, monkeypatch, capsys)


def test_a_night_with_every_kind_of_fault(cluster, sweeps):
    faults = ["image-only", "crash", "killed", "greedy", "sleeper", "slow"]
    file = sweeps.file("night", methods=faults)
    assert sweeps("submit", file, "--no-snapshot")[0] == 0
    rows = sweeps.wait(
        "night",
        image_only="done",
        crash="failed",
        killed="failed",
        greedy="oom",
        sleeper="running",
        slow="running",
    )

    assert rows["crash"].state.reason == "RuntimeError: it broke [here]"
    assert len(rows["crash"].state.log) == 20
    assert "RuntimeError: it broke [here]" in "\n".join(rows["crash"].state.log)
    assert "killed by signal 9" in rows["killed"].state.reason
    assert rows["greedy"].state.reason == "MemoryError: simulated"
    assert rows["sleeper"].state.node in ("node0", "node1")

    for method in ("sleeper", "slow"):  # running begins before the method does
        wait_until((sweeps.folder / method).exists, f"mark of {method}")
    cluster.command("scancel", rows["sleeper"].state.job)
    cluster.command("scancel", rows["slow"].state.job, "--signal", "USR2")
    rows = sweeps.wait("night", sleeper="cancelled", slow="queued")
    assert "requeued" in rows["slow"].written.reason
    cluster.start_requeued_now()
    assert sweeps.wait("night")["slow"].state.status == "done"
    assert sweeps.rows("night")["slow"].state.attempts == 2

    _, out, _ = sweeps("status", "night")
    assert "it broke [here]" in out
    assert "2 failed" in out
    assert "RuntimeError" in sweeps("logs", "night", "crash")[1]

    assert sweeps("retry", "night", "--oom", "--no-snapshot")[0] == 0
    assert sweeps.manifest("night").read_cell(rows["greedy"].cell.id).request["batch_size"] == 32
    assert sweeps.wait("night")["greedy"].state.status == "done"

    code, out, err = sweeps("collect", "night")
    assert code == 1
    assert "3 of 6 cells are not done (2 failed, 1 cancelled)" in err
    assert len(list((sweeps.folder / "results-partial").glob("emoji/*.json"))) == 3

    _, out, _ = sweeps("submit", file, "--no-snapshot", "--json")
    assert {name.split("--")[0] for name in out.split('"')} >= {"crash", "killed", "sleeper"}
    assert "image-only" not in out
    assert "embed" not in out
    assert sweeps.wait("night")["sleeper"].state.status == "done"


def test_a_cell_out_of_time_and_of_requeues_is_a_timeout_that_can_be_retried(cluster, sweeps):
    text = (
        sweeps.file("late", methods=["slow"]).read_text(encoding="utf-8")
        + "slurm_max_num_timeout = 0\n"
    )
    file = sweeps.file("late", text.replace("timeout_min = 30", "timeout_min = 10"))
    sweeps("submit", file, "--no-snapshot")
    wait_until((sweeps.folder / "slow").exists, "begin")
    job = sweeps.rows("late")["slow"].state.job
    cluster.command("scancel", job, "--signal", "USR2")  # as Slurm does before the limit
    assert "timed-out too many times" in sweeps.wait("late")["slow"].state.reason
    assert sweeps.statuses("late") == {"slow": "timeout"}
    sweeps("retry", "late", "--timeout", "--no-snapshot")
    assert sweeps.wait("late")["slow"].state.status == "done"


def test_where_the_embedding_fails_its_cells_are_skipped_and_a_retry_takes_them_along(sweeps):
    text = sweeps.file("broken", methods=["image-only", "text-only"]).read_text(encoding="utf-8")
    file = sweeps.file("broken", text.replace("fake", "broken"))
    sweeps("submit", file, "--no-snapshot")
    rows = sweeps.wait("broken")
    assert rows["embed"].state.reason == "RuntimeError: no such towers"
    assert [rows[m].state.status for m in ("image-only", "text-only")] == ["skipped"] * 2
    assert f"needs {rows['embed'].cell.id}, which is failed" in rows["text-only"].state.reason
    _, out, _ = sweeps("retry", "broken", "--failed", "--no-snapshot", "--json")
    assert out.count("broken") == 3
    sweeps("cancel", "broken")


def test_a_submitter_killed_after_sbatch_leaves_a_sweep_that_goes_on(sweeps, monkeypatch):
    file = sweeps.file("orphan", methods=["brief"])
    write = Manifest.write_submission

    def dies_with_the_answer(self, submission):
        if submission.job is not None:
            raise SystemExit(9)
        write(self, submission)

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "write_submission", dies_with_the_answer)
        assert sweeps("submit", file, "--no-snapshot")[0] == 9
    assert sweeps.statuses("orphan")["brief"] in ("queued", "running")
    assert "nothing to submit" in sweeps("submit", file, "--no-snapshot")[2]
    (sweeps.folder / "go").touch()
    assert sweeps.wait("orphan")["brief"].state.status == "done"


def test_a_node_whose_daemon_is_killed_and_comes_back_loses_nothing(cluster, sweeps):
    sweeps("submit", sweeps.file("node", methods=["brief"]), "--no-snapshot")
    node = sweeps.wait("node", brief="running")["brief"].state.node
    wait_until((sweeps.folder / "brief").exists, "begin")
    cluster.kill_node(int(node[-1]))
    assert sweeps.statuses("node")["brief"] == "running"
    cluster.start_node(int(node[-1]))
    (sweeps.folder / "go").touch()
    assert sweeps.wait("node")["brief"].state.status == "done"


def test_a_cell_lost_with_its_node_begins_again_by_itself(cluster, sweeps):
    sweeps("submit", sweeps.file("lost", methods=["brief"]), "--no-snapshot")
    before = sweeps.wait("lost", brief="running")["brief"].state
    wait_until((sweeps.folder / "brief").exists, "begin")
    number = int(before.node[-1])
    cluster.lose_node(number)
    sweeps.wait("lost", brief="queued")
    cluster.start_requeued_now()
    state = sweeps.wait("lost", brief="running")["brief"].state
    wait_until(lambda: sweeps.rows("lost")["brief"].written.losses == 1, "second attempt")
    assert f"last with {before.node}" in sweeps.rows("lost")["brief"].state.reason
    assert (state.job, state.node != before.node) == (before.job, True)
    (sweeps.folder / "go").touch()
    state = sweeps.wait("lost")["brief"].state
    assert (state.status, state.attempts, state.reason) == ("done", 2, "")
    cluster.resume_node(number)


def test_a_shard_that_was_killed_is_retried_alone_and_the_record_is_that_of_one_job(
    sweeps, monkeypatch
):
    def submit(name, more):
        monkeypatch.setenv("CIRBENCH_CACHE", str(sweeps.folder / f"cache-{name}"))
        text = SHARDS.format(methods='["image-only"]', backbone="mortal", more=more)
        assert sweeps("submit", sweeps.file(name, text), "--no-snapshot")[0] == 0
        return sweeps.wait(name)

    submit("parts", "embed_tasks = 3")
    states = [row.state for row in refresh_status(sweeps.manifest("parts"))]
    assert [state.status for state in states] == ["done", "failed", "done", "skipped"]
    assert "killed by signal 9" in states[1].reason
    _, out, _ = sweeps("retry", "parts", "--no-snapshot", "--json")
    assert [cell.split("--")[0] for cell in json.loads(out)] == ["embed", "image-only"]
    shared = sweeps.wait("parts")
    states = [row.state for row in refresh_status(sweeps.manifest("parts"))]
    assert [state.attempts for state in states] == [1, 2, 1, 1]

    whole = submit("whole", "")
    one, three = (read_record(rows["image-only"].record) for rows in (whole, shared))
    assert (one.counts.image_passes, three.counts.image_passes) == (768, 0)
    assert three.per_query.sha256 == one.per_query.sha256
    assert (three.metrics, three.fingerprints) == (one.metrics, one.fingerprints)


def test_two_submits_at_once_send_each_cell_once(cluster, sweeps):
    file = sweeps.file("twice", methods=["image-only"])
    command = [
        sys.executable,
        "-P",
        "-c",
        "from cirbench.benchmark.cli.main import main; main()",
        "sweep",
        "submit",
        file,
        "--no-snapshot",
    ]
    both = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
        for _ in range(2)
    ]
    said = sorted(process.communicate()[1] for process in both)
    assert "1 cells" in said[0]
    assert "nothing to submit" in said[1]
    assert sweeps.wait("twice")["image-only"].state.attempts == 1
    assert cluster.command("squeue", "-h", "--states=all", "-o", "%j").count("twice-") == 1


@pytest.mark.parametrize("tasks", ["one task", "two tasks"])
def test_a_training_that_was_requeued_ends_in_the_same_weights(
    cluster, sweeps, picture_folder, tasks
):
    text = TRAINING.format(images=picture_folder, epochs=100)
    text += TWO_TASKS if tasks == "two tasks" else ""
    file = sweeps.file("trained", text)
    assert sweeps("submit", file, "--no-snapshot")[0] == 0
    output = sweeps.manifest("trained").folder / "checkpoints/pic2word--fake--s0.safetensors"
    wait_until(output.with_suffix(".state.safetensors").exists, "saved state")
    [job] = [row.state.job for row in sweeps.rows("trained").values() if row.cell.kind == "train"]
    cluster.command("scancel", job, "--signal", "USR2")
    sweeps.wait("trained", train="queued")
    cluster.start_requeued_now()
    rows = sweeps.wait("trained")
    assert rows["train"].state.attempts == 2
    assert rows["pic2word"].state.status == "done"

    cluster_of = ["--cluster", "local"] if tasks == "two tasks" else ["--cluster", "debug"]
    assert sweeps("submit", sweeps.file("unbroken", text), *cluster_of, "--no-snapshot")[0] == 0
    sweeps.wait("unbroken")
    unbroken = sweeps.manifest("unbroken").folder / "checkpoints" / output.name
    assert output.read_bytes() == unbroken.read_bytes()


def test_a_trunk_whose_training_was_requeued_is_its_runs_backbone(cluster, sweeps):
    text = TOWERS.format(epochs=3).replace('"tiny", "emoji-clip"', '"tiny"')
    assert sweeps("submit", sweeps.file("towers", text), "--no-snapshot")[0] == 0
    output = sweeps.manifest("towers").folder / "checkpoints/artemis--tiny--s0.safetensors"
    wait_until(output.with_suffix(".state.safetensors").exists, "saved state")
    cluster.command("scancel", sweeps.rows("towers")["train"].state.job, "--signal", "USR2")
    cluster.start_requeued_now()
    rows = sweeps.wait("towers")
    assert set(sweeps.statuses("towers").values()) == {"done"}
    assert rows["train"].state.attempts == 2
    assert read_record(rows["artemis"].record).cell.backbone.startswith("trained:artemis+")

    # in a process of its own, with as many threads
    file = sweeps.file("unbroken", text)
    assert sweeps("submit", file, "--cluster", "local", "--no-snapshot")[0] == 0
    sweeps.wait("unbroken")
    unbroken = sweeps.manifest("unbroken").folder / "checkpoints" / output.name
    assert output.read_bytes() == unbroken.read_bytes()


def test_the_supervised_methods_are_trained_and_evaluated(sweeps):
    steps = dict.fromkeys(("tirg", "maaf"), "steps = 11")
    methods = steps | dict.fromkeys(("artemis", "cirplant"), "epochs = 1")
    trained = "".join(
        f'[[train]]\nmethod = "{name}"\nbackbone = "emoji-clip"\ntask = "emoji"\n{length}\n'
        for name, length in methods.items()
    )
    text = f"methods = {list(methods)}\ntasks = ['emoji']\n{trained}[resources]\nmem_gb = 2\n"
    assert sweeps("submit", sweeps.file("supervised", text), "--no-snapshot")[0] == 0
    sweeps.wait("supervised")
    assert set(sweeps.statuses("supervised").values()) == {"done"}
    assert sweeps("collect", "supervised", "-o", "collected")[0] == 0
    board = (sweeps.folder / "collected/leaderboard.md").read_text(encoding="utf-8")
    assert all(f"| {name} " in board for name in methods)


def test_when_one_task_of_a_training_is_killed_the_others_are_not_waited_for(
    sweeps, picture_folder
):
    text = TRAINING.format(images=picture_folder, epochs=5) + TWO_TASKS
    text = text.replace('"fake"', '"half-dead"')
    assert sweeps("submit", sweeps.file("cut", text), "--no-snapshot")[0] == 0
    rows = sweeps.wait("cut")
    assert rows["train"].state.status == "failed"
    assert "killed by signal 9" in rows["train"].state.reason
    assert "task 1: Killed" in "\n".join(rows["train"].state.log)
    assert rows["pic2word"].state.status == "skipped"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('slurm_partition = "nowhere"', "Invalid partition name"),
        ("gpus_per_node = 5", "Requested node configuration is not available"),
        ("mem_gb = 900", "Requested node configuration is not available"),
    ],
)
def test_what_slurm_does_not_have_is_refused_before_any_job(cluster, sweeps, line, said):
    (sweeps.folder / "profile.toml").write_text(
        f"[[override]]\nmethod = '*'\n{line}\n", encoding="utf-8"
    )
    file = sweeps.file("refused", methods=["image-only", "text-only"])
    code, _, err = sweeps("submit", file, "--profile", "profile.toml", "--no-snapshot")
    assert code == 2
    assert said in err
    assert "refused-" not in cluster.command("squeue", "-h", "--states=all", "-o", "%j")
    assert set(sweeps.statuses("refused").values()) == {"planned"}


def test_a_node_without_a_usable_gpu_fails_the_cell_at_once_with_the_reason(sweeps):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    file = sweeps.file(
        "gpu", sweeps.file("gpu").read_text(encoding="utf-8") + "gpus_per_node = 1\n"
    )
    sweeps("submit", file, "--no-snapshot")
    state = sweeps.wait("gpu")["image-only"].state
    assert state.status == "failed"
    assert "CUDA_VISIBLE_DEVICES='0'" in state.reason


def test_the_emoji_sweep_gives_the_leaderboard_that_bench_run_gives(sweeps, monkeypatch):
    assert sweeps("submit", "emoji")[0] == 0
    names = tomllib.loads((ROOT / "slurm/sweeps/emoji.toml").read_text(encoding="utf-8"))["methods"]
    methods = [word for name in names for word in ("-m", name)]
    command = [sys.executable, "-P", "-c", "from cirbench.benchmark.cli.main import main; main()"]
    for rest in (["run", *methods, "-t", "emoji", "-q"], ["leaderboard"]):
        subprocess.run([*command, *rest, "-o", "by-run"], check=True, stdout=subprocess.DEVNULL)
    rows = sweeps.wait("emoji")
    assert {row.state.status for row in rows.values()} == {"done"}
    assert sweeps("collect", "emoji", "-o", "by-sweep")[0] == 0
    [one, two] = [
        (sweeps.folder / f"{by}/leaderboard.md").read_bytes() for by in ("by-run", "by-sweep")
    ]
    assert one == two
