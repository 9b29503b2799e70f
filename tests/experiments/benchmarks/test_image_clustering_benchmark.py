# SPDX-License-Identifier: MIT
import numpy as np
import pytest

from datamodules.partitioners.centre_losses import Correntropy, EpsilonInsensitive, Huber, PseudoHuber
from experiments.benchmarks.image_clustering import (
    DELTA,
    EPSILON,
    POINT_LOSSES,
    SIGMA,
    ImageClusteringBenchmark,
    source_procedure,
)


def test_both_sides_are_measured_on_the_same_objective():
    random = np.random.default_rng(0)
    x, mu = random.normal(0, 2, 50), random.normal(0, 2, 50)
    ours = {
        "huber": Huber(DELTA),
        "pseudo_huber": PseudoHuber(DELTA),
        "correntropy": Correntropy(SIGMA),
        "epsilon_insensitive": EpsilonInsensitive(EPSILON),
    }
    assert ours.keys() == POINT_LOSSES.keys()
    for name, loss in ours.items():
        assert POINT_LOSSES[name](x, mu) == pytest.approx(loss.value(x - mu).sum())


def test_the_source_procedure_clusters():
    points = np.array([[0.0, 0.2], [0.1, 0.0], [9.0, 9.1], [9.2, 9.0]])
    objective, seconds = source_procedure(POINT_LOSSES["huber"], points, points[[0, 3]])
    assert objective == pytest.approx(2 * (0.05**2 + 0.1**2) / 2 + 2 * (0.1**2 + 0.05**2) / 2, rel=1e-3)
    assert seconds > 0


@pytest.mark.parametrize("loss", POINT_LOSSES)
def test_records_of_a_small_run_state_time_and_objective(loss):
    time, objective = ImageClusteringBenchmark(repeats=2, losses=(loss,), dim=4).measure()
    assert time["unit"] == "s" and time["repeats"] == 2
    assert time["ratio_min"] <= time["ratio"] <= time["ratio_max"]
    assert objective["ratio"] >= 0.999  # no more than 0.1 % above the source's
