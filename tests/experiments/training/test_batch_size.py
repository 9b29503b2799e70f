# SPDX-License-Identifier: MIT
"""Small data sets: how many samples a step takes, and who is told that there are too few steps."""

import pandas as pd
import pytest

from datamodules.cluster_datamodule import batch_size
from datamodules.embedding_set import EmbeddingSet
from experiments.training.batch_size import few_steps_warning


def test_auto_is_a_power_of_two_with_at_least_16_steps_unless_there_are_fewer_samples():
    for n in [*range(1, 300), 4095, 4096, 10**7]:
        size = batch_size("auto", n)
        assert size & (size - 1) == 0 and 1 <= size <= 256
        assert -(-n // size) >= min(16, n)
        assert size == 256 or -(-n // (2 * size)) < 16 or n // (2 * size) < 16  # the largest of them
    assert batch_size(48, 5) == 48


def test_the_line_names_steps_and_cure_where_there_are_few():
    line = few_steps_warning(256, 50, {"small": 60, "large": 100_000})
    assert "small has about 60 training samples" in line and "1 steps per epoch and 50 in all" in line
    assert "trainer.batch_size=auto" in line and "\n" not in line
    assert few_steps_warning("auto", 50, {"small": 60}) is None
    assert "batch_size=auto" not in few_steps_warning("auto", 1, {"small": 60})
    assert few_steps_warning(256, 50, {"large": 100_000}) is None
    assert few_steps_warning(256, 500, {"small": 60}) is None
    assert few_steps_warning(256, 1, {}) is None


@pytest.mark.parametrize("init, told", [("random", True), ("prototype", False)])
def test_train_says_it_before_training_from_random_rows_only(call, quick, tmp_path, init, told):
    ended = call("train", *quick, f"init={init}", f"runs_dir={tmp_path}/runs", "trainer.batch_size=256")
    assert ended.code == 0, ended.err
    assert ("warning: " in ended.out and "steps per epoch" in ended.out) == told


def test_forty_people_are_learnt_with_the_defaults(call, people, tmp_path):
    EmbeddingSet.write(tmp_path / "faces", *people(n_identities=40, dim=128, samples=(4, 6), noise=0.2))
    ended = call(
        "compare", "data=embedding_set", f"data.path={tmp_path}/faces", "n_subnets=2", "seeds=1", "logger=none",
        "trainer.accelerator=cpu", "trainer.threads=1", f"runs_dir={tmp_path}", "name=run",
        'scenarios=[clustered_nearest,"decision=nearest_mean"]',
    )  # fmt: skip
    assert ended.code == 0 and "warning" not in ended.out
    f1 = pd.read_csv(tmp_path / "run" / "results.csv").set_index("scenario").f1
    assert f1["decision=nearest_mean"] == 100 and f1["clustered_nearest"] > 97


def test_auto_trains_more_steps(call, quick, tmp_path):
    ended = call("train", *quick, f"runs_dir={tmp_path}/runs", "trainer.batch_size=auto", "trainer.max_epochs=1")
    assert ended.code == 0, ended.err
    call("train", *quick, f"runs_dir={tmp_path}/runs", "trainer.batch_size=few").assert_refused("few", "auto")
