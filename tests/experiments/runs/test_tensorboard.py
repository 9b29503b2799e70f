# SPDX-License-Identifier: MIT
"""TensorBoard's event files, read back: the names and values of the CSV logger, every epoch once."""

import csv
from importlib import util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules.errors import InputError
from experiments.runs.tensorboard import TensorBoardTracking
from experiments.training.launchers.in_process import InProcess
from experiments.training.progress import Watcher

TENSORBOARD = {"_target_": "experiments.runs.tensorboard.TensorBoardTracking"}
CSV = {"_target_": "experiments.runs.tracking.CSVTracking"}
EPOCHS = 3


class Stopping(Watcher):
    """Stops the run after an epoch."""

    def epoch(self, job, done, of, values):
        if done == 2:
            raise KeyboardInterrupt


def read(folder) -> EventAccumulator:
    found = EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0})
    return found.Reload()


def scalars(job) -> dict[str, list[tuple[int, float]]]:
    folder = Path(job.run_folder) / "tensorboard" / job.title.replace(" ", "_")
    events = read(folder)
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_names_and_values_are_those_of_the_history_and_of_the_csv_logger(make_jobs):
    job = make_jobs("board", tracking=TENSORBOARD, max_epochs=EPOCHS)[0]
    InProcess().run([job], Watcher())
    found, history = scalars(job), job.record()["history"]
    for name, values in found.items():
        assert values == [(epoch["epoch"], pytest.approx(epoch[name], rel=1e-6)) for epoch in history]
    other = make_jobs("csv", tracking=CSV, max_epochs=EPOCHS)[0]
    InProcess().run([other], Watcher())
    (file,) = (Path(other.run_folder) / "csv").rglob("metrics.csv")
    with open(file) as stream:
        assert set(found) == set(csv.DictReader(stream).fieldnames) - {"epoch", "step"}
    assert {"train/loss", "val/accuracy_percent", "time/epoch_seconds"} <= set(found)


def test_a_resumed_sub_network_has_every_epoch_once(make_jobs):
    job = make_jobs("resumed", tracking=TENSORBOARD, max_epochs=EPOCHS)[0]
    with pytest.raises(KeyboardInterrupt):
        InProcess().run([job], Stopping())
    InProcess().run([job], Watcher())
    assert [epoch for epoch, _ in scalars(job)["train/loss"]] == list(range(EPOCHS))


def test_the_comparison_is_a_run_of_its_own(tmp_path):
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(tmp_path / "dot.png")
    table = pd.DataFrame({"dataset": ["lfw"] * 2, "method": ["ours"] * 2, "seed": [0, 1], "f1": [40.0, 42.0]})
    for _ in range(2):
        TensorBoardTracking().summarise("run", tmp_path, {}, table, [tmp_path / "dot.png"])
    events = read(tmp_path / "tensorboard" / "summary")
    assert [e.value for e in events.Scalars("f1_percent/lfw/ours")] == [41.0]
    assert [(e.width, e.height) for e in events.Images("figures/dot")] == [(6, 4)]
    (text,) = events.Tensors("tables/results/text_summary")
    assert "| lfw | ours | 1 | 42 |" in text.tensor_proto.string_val[0].decode()


def test_without_the_package_the_cure_is_named_before_anything_is_written(call, quick, tmp_path, monkeypatch):
    find = util.find_spec
    absent = lambda name: None if name == "tensorboard" else find(name)  # noqa: E731
    monkeypatch.setattr("experiments.runs.tensorboard.find_spec", absent)
    with pytest.raises(InputError, match="tensorboard"):
        TensorBoardTracking()
    arguments = (*quick, f"runs_dir={tmp_path}/runs", "seeds=1", "logger=tensorboard")
    call("compare", *arguments).assert_refused("clusterface[tensorboard]")
    assert not (tmp_path / "runs").exists()
