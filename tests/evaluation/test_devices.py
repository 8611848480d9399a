"""One gallery over several devices of a machine, by a process each."""

from __future__ import annotations

import os
import sys

import pytest

from cirbench.benchmark.evaluation import devices
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.runtime.errors import CheckFailed, MissingData, UsageError
from cirbench.benchmark.runtime.progress import Reporter


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Runs image-only on kin with the fake backbone, with a store of its own a name."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def evaluate(name, **changes):
        monkeypatch.setenv("CIRBENCH_CACHE", str(tmp_path / name))
        settings = {"methods": ("image-only",), "task": "kin", "backbone": "fake"}
        request = Request(**{**settings, "output": tmp_path / name / "records", **changes})
        [record] = run(plan(request), Reporter(quiet=True))
        return record

    return evaluate


@pytest.fixture
def replaced(tmp_path, monkeypatch):
    """Puts another program in the place of the processes' own."""

    def replace(source):
        (tmp_path / "stand_in.py").write_text(source, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setattr(devices, "MODULE", "stand_in")

    return replace


def test_two_devices_make_the_record_of_one(evaluate):
    one, two = evaluate("one", device="cpu"), evaluate("two", device="cpu,cpu")
    assert two.per_query.sha256 == one.per_query.sha256
    assert (two.metrics, two.fingerprints) == (one.metrics, one.fingerprints)
    assert two.counts == one.counts
    assert (two.run.device, two.run.cache) == ("cpu", "use")
    again = evaluate("two", device="cpu,cpu", cache="refresh")
    assert again.counts.image_passes == one.counts.image_passes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "cpu,cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"device": "cpu,"}, "device '' cannot be used"),
        ({"device": "cpu,meta"}, "device 'meta' cannot be used"),
        ({"device": "cpu,cpu", "cache": "off"}, "must be use or refresh, got off"),
        ({"device": "cpu,cpu,cpu", "limit": 1, "task": "emoji"}, None),
        ({"device": ",".join(["cpu"] * 9), "limit": 1, "task": "emoji"}, "its 5 pictures, got 9"),
    ],
)
def test_a_list_of_devices_that_cannot_be_used_is_one_error(evaluate, changes, said):
    if said is None:
        assert evaluate("few", **changes).counts.image_passes == 5
        return
    with pytest.raises(UsageError, match=said):
        evaluate("none", **changes)


def test_devices_of_two_kinds_are_refused(monkeypatch):
    from cirbench.benchmark.evaluation import plan as planning

    monkeypatch.setattr(planning, "choose_device", lambda name: name)
    with pytest.raises(UsageError, match="must be of one kind, got cpu,cuda:0"):
        planning.choose_devices("cpu,cuda:0")
    assert planning.choose_devices("cuda:0,cuda:1") == ("cuda:0", "cuda:1")


def test_a_backbone_that_was_handed_in_is_refused(evaluate):
    from cirbench.benchmark.backbones.load import load_backbone

    with pytest.raises(UsageError, match="must be given by name"):
        evaluate("own", backbone=load_backbone("fake"), device="cpu,cpu")


def test_a_process_that_is_killed_is_named_with_its_device(evaluate, replaced):
    replaced("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(CheckFailed, match=r"the process on cpu was killed \(SIGKILL\)"):
        evaluate("killed", device="cpu,cpu")


def test_the_error_of_one_process_is_told_and_ends_the_others(evaluate, replaced):
    replaced(
        "import sys, time\n"
        "if '\"1/2\"' in sys.argv[1]: time.sleep(600)\n"
        "sys.exit(print('error: picture 7 cannot be read') or 3)"
    )
    with pytest.raises(MissingData, match="on cpu: picture 7 cannot be read"):
        evaluate("error", device="cpu,cpu")


def test_a_fault_of_the_code_is_no_answer_of_a_check(evaluate, replaced):
    replaced("raise ValueError('unforeseen')")
    with pytest.raises(RuntimeError, match="ended with 1: ValueError: unforeseen"):
        evaluate("fault", device="cpu,cpu")


def test_what_a_process_says_is_passed_on(evaluate, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [devices.MODULE, '{"methods": [], "task": "emojy"}'])
    with pytest.raises(SystemExit) as ended:
        devices.main()
    assert ended.value.code == 2
    assert capfd.readouterr().err.startswith("error: unknown task 'emojy'")
