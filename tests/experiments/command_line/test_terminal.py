# SPDX-License-Identifier: MIT
"""What commands show: help, quiet and verbose, colours in a terminal alone."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from datamodules.errors import InputError
from experiments.command_line import terminal
from experiments.training.progress import SECONDS, Progress

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = sorted(file.stem for file in (ROOT / "experiments").glob("[!_]*.py"))
ESCAPE = "\x1b"


def helped(name, call, capsys):
    if (ROOT / "experiments" / "configs" / f"{name}.yaml").exists():
        return call(name, "--help").out
    module = __import__(f"experiments.{name}", fromlist=["main"])
    try:
        module.main(["--help"])
    except SystemExit as ended:
        assert not ended.code
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_in_about_ten_lines_shows_two_examples_and_says_what_exit_codes_mean(name, call, capsys):
    lines = helped(name, call, capsys).splitlines()
    examples = [line for line in lines if line.startswith(f"  python -m experiments.{name}")]
    examples = examples or [line for line in lines if line.startswith(f"python -m experiments.{name}")][1:]
    assert len(examples) >= 2
    assert f"python -m experiments.{name}" in lines[0] and max(map(len, lines)) <= 125
    explained = [line for line in lines[1:] if line.strip() and line not in examples]
    assert 4 <= len(explained) <= 20
    text = " ".join(lines)
    for word in ("Exit codes: 0 done", "2 bad input", "130 stopped", "--quiet", "--verbose"):
        assert word in text


def test_a_command_that_can_fail_in_part_says_so(call):
    for name in ("compare", "train"):
        assert "1 a part failed" in call(name, "--help").out


def test_flags_stand_anywhere_and_not_both():
    assert terminal.without_flags(["a=1", "-v", "b=2"]) == (["a=1", "b=2"], "verbose")
    assert terminal.without_flags(["--quiet"]) == ([], "quiet")
    with pytest.raises(InputError, match="--quiet and --verbose"):
        terminal.without_flags(["--quiet", "-v"])


def test_quiet_hides_notes_and_warnings_and_not_results(capsys):
    with terminal.verbosity("quiet"):
        terminal.notes().print("on the way")
        terminal.results().print("found")
        with warnings.catch_warnings(record=True) as heard:
            warnings.warn("of a library", stacklevel=1)
    assert capsys.readouterr().out == "found\n" and heard == []
    terminal.notes().print("on the way")
    assert capsys.readouterr().out == "on the way\n"


def test_verbose_lets_log_lines_through_with_their_time_and_only_as_long(capsys):
    before = logging.getLogger().level
    with terminal.verbosity("verbose"):
        logging.getLogger("some.library").info("what it does")
    logging.getLogger("some.library").info("later")
    err = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO some.library: what it does\n", err)
    assert logging.getLogger().level == before


@pytest.fixture
def compare(call, quick, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    arguments = (*quick, f"runs_dir={tmp_path}/runs", "seeds=1", "scenarios=[clustered_nearest]")
    return lambda *more: call("compare", *arguments, *more)


def test_a_comparison_says_less_and_more(compare):
    quiet, normal, verbose = (compare(f"name=run{i}", *flag) for i, flag in enumerate([["-q"], [], ["-v"]]))
    assert {quiet.code, normal.code, verbose.code} == {0}
    assert "sub-networks to train" in normal.out and "sub-networks to train" not in quiet.out
    for ended in (quiet, normal, verbose):
        assert "clustered_nearest" in ended.out and "report:" in ended.out and ESCAPE not in ended.out + ended.err
    assert quiet.err == "" and "INFO experiments." in verbose.err


def shown_in_a_terminal(**environment) -> str:
    """What `experiments.list loss` writes to a terminal."""
    return in_a_terminal([sys.executable, "-m", "experiments.list", "loss"], **environment)


def in_a_terminal(command: list[str], **environment) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    variables |= {"TERM": "xterm-256color", "COLUMNS": "100", **environment}
    process = subprocess.Popen(command, cwd=ROOT, stdout=theirs, stderr=theirs, stdin=theirs, env=variables)
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 4096):
            text += part
    except OSError:  # how a terminal says that the other end has closed
        pass
    assert process.wait(60) == 0
    os.close(ours)
    return text.decode()


def test_colours_and_borders_in_a_terminal_alone():
    in_terminal = shown_in_a_terminal()
    assert ESCAPE in in_terminal and "│" in in_terminal and "arcface" in in_terminal
    piped = subprocess.run(
        [sys.executable, "-m", "experiments.list", "loss"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ESCAPE not in piped.stdout and "arcface" in piped.stdout


@pytest.mark.parametrize("width", [60, 80, 200])
def test_progress_shows_its_numbers_in_a_window_of_any_width(width):
    console = Console(force_terminal=True, width=width, color_system=None)
    progress = Progress(console, {"one": 1.0, "other": 3.0})
    progress.begins("one", "synthetic N=2000 kmeans m=2 arcface seed 0 cluster 1")
    with console.capture() as captured:
        console.print(progress._bar)
    shown = captured.get()
    assert "0%" in shown and "0:00:00 -:--:-- left" in shown and "synthetic N=2" in shown
    assert shown.count("\n") == 1 and len(shown) <= width + 1


def test_kinds_of_parts_have_their_own_speed_and_seconds_stay_seconds(monkeypatch):
    """2 units of training took 10 s each and the first evaluation of 1 unit 30 s: one more of each, and 5 s, remain."""
    now = [0.0]
    monkeypatch.setattr("experiments.training.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = Progress(Console(file=io.StringIO()), {"job": 2.0})
    progress.expect({"first": 1.0, "second": 1.0}, "evaluation")
    progress.expect({"report": 5.0}, SECONDS)
    progress.begins("job", "job")
    now[0] = 20.0
    progress.ends("job")
    assert progress._left() == "0:00:25"  # evaluations as fast as training so far
    with progress.stage("first"):
        now[0] = 50.0
    assert progress._left() == "0:00:35"
    progress.forget("second")
    assert progress._left() == "0:00:05"


def test_a_stage_over_two_seconds_says_so_in_a_pipe_and_a_short_one_or_quiet_does_not(monkeypatch):
    monkeypatch.setattr("experiments.training.progress.SECONDS_BEFORE_LINE", 0.2)
    silent = [Console(file=io.StringIO(), quiet=True, force_terminal=terminal) for terminal in (True, False)]
    for console, told in ((Console(file=io.StringIO()), "slow ...\n"), *((one, "") for one in silent)):
        progress = Progress(console, {})
        with progress.stage("short"):
            pass
        with progress.stage("slow"):
            time.sleep(0.6)
        assert console.file.getvalue() == told


def test_every_stage_after_training_has_a_title_in_the_bar(quick, tmp_path):
    code = (
        "import sys, experiments.training.progress as p; stage = p.Progress.stage; "
        "p.Progress.stage = lambda self, *words: (print('STAGE', words[-1], file=sys.stderr), stage(self, *words))[1]; "
        "from experiments.compare import main; main()"
    )
    arguments = [*quick, "seeds=1", "scenarios=[clustered_nearest]", f"runs_dir={tmp_path}"]
    loud = in_a_terminal([sys.executable, "-c", code, *arguments])
    for title in ("evaluation of clustered_nearest", "map of the class means", "tables, figures and report"):
        assert f"STAGE {title}" in loud and re.search(rf"\r.*{title[:20]}", loud.replace(f"STAGE {title}", ""))


def test_no_color_takes_the_colour_from_errors(capsys, monkeypatch):
    """NO_COLOR takes colours away (no-color.org); bold is none."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    terminal.show_error("got a; expected b; cure: c")
    assert f"{ESCAPE}[1merror: {ESCAPE}[0mgot a; expected b; cure: c" in capsys.readouterr().err


def test_an_error_is_red_in_a_terminal_and_plain_elsewhere(capsys, monkeypatch):
    terminal.show_error("got [a]; expected b; cure: c")
    assert capsys.readouterr().err == "error: got [a]; expected b; cure: c\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal.show_error("got [a]; expected b; cure: c")
    err = capsys.readouterr().err
    assert ESCAPE in err and "got [a]; expected b; cure: c" in err


def test_the_time_left_weighs_parts_by_their_work(monkeypatch):
    """Half of a part of weight 2 took 10 s: what is left, 1 + 6, takes 70 s."""
    now, out = [100.0], io.StringIO()
    monkeypatch.setattr("experiments.training.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("experiments.training.progress.SECONDS_BETWEEN_LINES", 0.0)
    progress = Progress(Console(file=out, width=200), {"small": 2.0, "large": 6.0})
    progress.begins("small", "this one")
    now[0] = 110.0
    progress.advances("small", "this one", 1, 2, 0.5)
    assert out.getvalue() == "this one, sub-network 1 of 2, epoch 1 of 2, loss 0.5, about 0:01:10 left\n"
