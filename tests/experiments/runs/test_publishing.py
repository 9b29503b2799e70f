# SPDX-License-Identifier: MIT
import pandas as pd
from omegaconf import OmegaConf
from rich.console import Console

from experiments.runs.publishing import publish, terminal_table
from experiments.runs.run_folder import RunFolder


def shown(frame):
    console = Console(width=80)
    with console.capture() as captured:
        console.print(terminal_table(frame))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_rows_go_across_and_a_single_one_down():
    frame = pd.DataFrame({"loss": ["[square]", "huber"], "nmi": [0.5, 0.25]})
    assert shown(frame) == ["loss       nmi", "[square]   0.5", "huber     0.25"]
    assert shown(frame[:1]) == ["loss  [square]", "nmi        0.5"]


def test_a_run_is_published_as_csv_and_report(tmp_path, capsys):
    frame = pd.DataFrame({"loss": ["square"], "nmi": [0.5], "hidden": [7]})
    with RunFolder(tmp_path / "run", OmegaConf.create({"k": 3})) as run:
        publish(
            run,
            frame,
            "Title",
            "The verdict.",
            {"All": frame},
            {},
            ["nmi"],
            {"_target_": "experiments.runs.tracking.NoTracking"},
        )
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run/results.csv"), frame)
    report = (tmp_path / "run/report.md").read_text()
    assert "The verdict." in report and "k: 3" in report
    out = capsys.readouterr().out
    assert "nmi" in out and "hidden" not in out and "report.html" in out
