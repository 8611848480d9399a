from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from cirbench.benchmark.runtime import progress
from cirbench.benchmark.runtime.progress import Reporter


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """CI services set these, and rich then takes any stream for a terminal."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def advance_at(monkeypatch):
    """Advances a stage by one at each of these times, in seconds from its start."""
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_SECONDS", 10.0)

    def advance(stage, times):
        stage.started = stage.spoken = 0.0
        for now in times:
            clock = SimpleNamespace(monotonic=lambda now=now: now)
            monkeypatch.setattr(progress, "time", clock)
            stage.advance(1)

    return advance


def test_plain_lines_at_most_once_an_interval(capsys, advance_at):
    with Reporter().stage("images", 8) as stage:
        advance_at(stage, [1, 9.9, 10, 11, 19.9, 24, 30])
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "images: 3/8, 10 s, about 17 s left",
        "images: 6/8, 24 s, about 8 s left",
    ]
    assert captured.out == ""


def test_short_work_says_nothing(capsys):
    with Reporter().stage("images", 3) as stage:
        stage.advance(3)
    assert capsys.readouterr() == ("", "")


def test_each_line_is_there_at_once(monkeypatch, advance_at):
    flushed = []

    class Stream(io.StringIO):
        def flush(self):
            flushed.append(self.getvalue())

    monkeypatch.setattr("sys.stderr", Stream())
    with Reporter().stage("images", 2) as stage:
        advance_at(stage, [10])
        assert flushed[-1].startswith("images: 1/2")


def test_quiet_prints_nothing(capsys, advance_at):
    reporter = Reporter(quiet=True)
    reporter.say("hello")
    with reporter.stage("images", 3) as stage:
        advance_at(stage, [10, 20, 30])
    assert capsys.readouterr() == ("", "")


def test_quiet_draws_no_bar_on_a_terminal_either():
    reporter, screen = on_a_terminal(quiet=True)
    with reporter.stage("images", 2) as stage:
        stage.advance(2)
    assert screen.getvalue() == ""


def test_messages_are_whole_lines_on_standard_error(capsys):
    message = "wrote [bold]x[/bold] :cat: " + "long " * 100 + "/a/b.json"
    Reporter().say(message)
    captured = capsys.readouterr()
    assert captured.err == message + "\n"
    assert captured.out == ""


def on_a_terminal(*, quiet=False):
    reporter, screen = Reporter(quiet=quiet), io.StringIO()
    reporter.console = Console(file=screen, force_terminal=True, width=100)
    return reporter, screen


def test_a_terminal_gets_a_bar(capsys):
    reporter, screen = on_a_terminal()
    with reporter.stage("images", 6) as stage:
        stage.advance(2)
        stage.advance(4)
    assert "images" in screen.getvalue()
    assert "6/6" in screen.getvalue()
    assert capsys.readouterr() == ("", "")


def test_data_printed_beside_a_bar_still_goes_to_standard_output(capsys):
    reporter, _ = on_a_terminal()
    with reporter.stage("images", 2) as stage:
        print('{"R@1": 50.0}')
        stage.advance(2)
    assert capsys.readouterr().out == '{"R@1": 50.0}\n'
