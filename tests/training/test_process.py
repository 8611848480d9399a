"""Trainings and the process that they run in."""

from __future__ import annotations

import logging
import signal
import threading

import matplotlib as mpl
import pytest
import torch

from cirbench.benchmark.api.registry import find_training
from cirbench.benchmark.api.training import TrainingRequest
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.training.signals import defer_signals


def test_ctrl_c_waits_for_the_end_of_a_block():
    done = []

    def work():
        with defer_signals():
            signal.raise_signal(signal.SIGINT)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["whole"]


def test_a_callers_thread_needs_no_signals():
    before, failed = signal.getsignal(signal.SIGINT), []

    def work():
        try:
            with defer_signals():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (failed, signal.getsignal(signal.SIGINT)) == ([], before)


@pytest.mark.parametrize("method", ["pic2word", "combiner"])
def test_a_training_leaves_the_process_as_it_was(method, picture_folder, tmp_path):
    source = {"pic2word": str(picture_folder), "combiner": "emoji"}[method]
    request = TrainingRequest(
        source=source,
        backbone="fake",
        output=tmp_path / "weights.safetensors",
        recipe={"epochs": 1, "batch_size": 8} | ({} if method == "pic2word" else {"hidden": 8}),
    )
    random, style = torch.random.get_rng_state(), dict(mpl.rcParams)
    threads, level = torch.get_num_threads(), logging.getLogger().level
    torch.set_float32_matmul_precision("medium")
    try:
        find_training(method)().train(request, Reporter(quiet=True), resume=False)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert request.output.is_file()
    assert torch.equal(torch.random.get_rng_state(), random)
    assert dict(mpl.rcParams) == style
    assert (torch.get_num_threads(), logging.getLogger().level) == (threads, level)
