# SPDX-License-Identifier: MIT
"""Sweeps merged into one report, maps of clusters, and rows without numbers."""

import numpy as np
import pandas as pd
import pytest
from made_up_run import fake_details, fake_results
from scipy import stats
from sklearn.manifold import trustworthiness

from experiments.comparison.class_mean_map import plane
from experiments.reporting.canvas import told_apart
from experiments.reporting.clusters import map_pictures, partitions_table, sizes_picture
from experiments.reporting.columns import ADDED, Column
from experiments.reporting.methods import label_methods, scenario_title
from experiments.reporting.runs import unique_rows
from experiments.reporting.sweeps import numeric_values, sweep_blocks, swept_column
from experiments.reporting.tables import skipped_table


def merged(column, values):
    parts = []
    for i, value in enumerate(values):
        frame = fake_results(["omniglot"], [1000], range(3), ("no_distribution", "ism", "clustered_nearest"))
        frame.loc[frame["scenario"] != "no_distribution", column] = value
        rates = ["precision", "recall", "f1"]
        frame.loc[frame["scenario"] != "no_distribution", rates] -= i
        parts.append(frame.assign(run=f"run {value}"))
    return label_methods(pd.concat(parts, ignore_index=True).drop_duplicates(
        ["scenario", "seed", "n_subnets", "loss"], ignore_index=True
    ))  # fmt: skip


def test_labels_keep_what_differs():
    names = [f"No distribution [loss=arcface(margin={margin}), init=random]" for margin in (0.3, 0.5)]
    shown = told_apart([*names, "ISM"], 32)
    assert shown[2] == "ISM" and "0.3" in shown[0] and "0.5" in shown[1] and max(map(len, shown)) <= 32


def test_only_numbers_of_one_key_are_an_axis():
    assert numeric_values("loss", ["arcface(margin=0.3)", "arcface"])[1] == {"arcface(margin=0.3)": 0.3, "arcface": 0.5}
    assert numeric_values("setting", ["optimizer.lr=1e-3", "optimizer.lr=0.01"])[0] == "optimizer.lr"
    for values in (
        ["arcface", "cosface"], ["arcface(margin=0.3)", "cosface(margin=0.3)"], ["arcface(margin=0.3)", ""],
        ["arcface(margin=0.3)", "arcface(scale=9)"], ["arcface(margin=0.3,scale=9)", "arcface"],
    ):  # fmt: skip
        assert numeric_values("loss", values) is None
    assert numeric_values("setting", ["head.kind=a", "head.kind=b"]) is None


@pytest.mark.parametrize(("column", "values"), [("n_subnets", [2, 4, 8]), ("loss", ["arcface", "cosface"])])
def test_the_choice_that_differs_between_runs_is_a_column(column, values):
    frame = merged(column, values)
    assert swept_column(frame) == column
    table, picture = sweep_blocks(frame)
    shown = [row[1].text for row in table.rows if row[0].text.startswith("ISM")]
    assert shown == [str(value) for value in values]
    assert picture.name == f"sweep_{column}" and picture.png.startswith(b"\x89PNG")


def test_scores_of_a_sweep_are_means_with_the_corrected_interval():
    frame = merged("n_subnets", [2, 4])
    table, _ = sweep_blocks(frame)
    row = next(r for r in table.rows if r[0].text.startswith("ISM") and r[1].text == "4")
    f1 = frame.loc[(frame["scenario"] == "ism") & (frame["n_subnets"] == 4), "f1"]
    low, high = stats.t.interval(0.95, len(f1) - 1, f1.mean(), f1.std() * (1 / 3 + 4 / 12) ** 0.5)
    assert row[table.columns.index("F1")].text == f"{f1.mean():.2f} [{low:.2f}, {high:.2f}]"


def test_a_further_metric_is_a_column_of_the_sweep_with_its_unit_and_digits():
    frame = merged("n_subnets", [2, 4]).assign(entropy=lambda rows: rows["seed"] + rows["n_subnets"] / 10)
    frame.attrs[ADDED] = (Column("entropy", "metric", "bits", "Entropy", 3),)
    table, _ = sweep_blocks(frame)
    row = next(r for r in table.rows if r[0].text.startswith("ISM") and r[1].text == "4")
    half = 4.302653 * (1 / 3 + 4 / 12) ** 0.5  # seeds 0, 1, 2: deviation 1, t with two degrees of freedom
    assert row[table.columns.index("Entropy (bits)")].text == f"1.400 [−{half - 1.4:.3f}, {1.4 + half:.3f}]"


def test_one_run_and_runs_that_differ_in_nothing_are_no_sweep():
    frame = merged("n_subnets", [2])
    assert swept_column(frame) is None and not sweep_blocks(frame)
    assert swept_column(label_methods(pd.concat([frame, frame.assign(run="again")]))) is None


def groups(seed=0):
    random = np.random.default_rng(seed)
    centres = np.repeat(np.eye(3, 40) * 4, 30, axis=0)
    points = centres + random.standard_normal(centres.shape) * 0.3
    return points / np.linalg.norm(points, axis=1, keepdims=True), np.repeat(np.arange(3), 30)


def test_the_map_keeps_neighbours_and_repeats_itself():
    points, home = groups()
    flat = plane(points)
    assert flat.shape == (90, 2) and np.linalg.norm(flat, axis=1).max() == pytest.approx(1)
    assert trustworthiness(points, flat, n_neighbors=10) > 0.9
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (home[distance.argmin(axis=1)] == home).all()
    np.testing.assert_array_equal(flat, plane(points))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_map_of_a_few_points_is_finite(count):
    flat = plane(groups()[0][::18][:count])
    assert flat.shape == (count, 2) and np.isfinite(flat).all()


def test_a_map_has_a_panel_for_each_partitioner_at_the_largest_n():
    points, home = groups()
    flat = plane(points)
    rows = pd.concat([
        pd.DataFrame({"dataset": "omniglot", "n_identities": n, "n_subnets": 3, "seed": 0, "partitioner": name,
                      "label": np.arange(90), "cluster": home, "x": flat[:, 0], "y": flat[:, 1]})
        for n in (50, 90) for name in ("random", "kmeans", "generalised_kmeans")
    ])  # fmt: skip
    (picture,) = map_pictures(rows)
    assert picture.name == "partition_map" and "90 of 90" in picture.caption and "m = 3" in picture.caption
    assert map_pictures(rows)[0].png == picture.png


def test_two_clusters_need_no_figure_of_sizes():
    clusters = fake_details("d", 2000, [0, 1], m=2, epochs=1)["clusters"]
    assert sizes_picture(clusters) is None
    assert sizes_picture(fake_details("d", 2000, [0, 1], m=3, epochs=1)["clusters"]).name == "cluster_sizes"


def test_sizes_and_similarities_are_weighted_by_identities():
    clusters = pd.DataFrame({
        "dataset": "omniglot", "n_identities": 100, "partitioner": "kmeans", "seed": 0, "cluster": [0, 1],
        "size": [75, 25], "within_similarity": [0.4, 0.8], "between_similarity": [0.1, 0.2],
    })  # fmt: skip
    (row,) = partitions_table(clusters).rows
    texts = [cell.text for cell in row]
    assert "25" in texts and "75" in texts and "1.50" in texts and "0.500" in texts and "0.125" in texts


def test_reasons_are_shown_once_for_all_seeds():
    skipped = pd.DataFrame({"dataset": "omniglot", "n_identities": 1623, "scenario": "linear_svc", "seed": [0, 1, 2],
                            "reason": "too many"})  # fmt: skip
    table = skipped_table(skipped)
    assert table.caption == "Rows without numbers: omniglot, N = 1,623"
    assert [[cell.text for cell in row] for row in table.rows] == [["LinearSVC", "too many"]]


def test_an_exchanged_choice_has_a_title():
    assert scenario_title("loss=sub_center_arcface") == "Proposal, loss sub center arcface"


def test_the_same_answers_in_other_seconds_are_one_measurement():
    rows = fake_results(["omniglot"], [1000], range(2), ("no_distribution", "ism")).assign(run="a")
    again = rows.assign(run="b", train_seconds=rows["train_seconds"] + 1, epoch_seconds_serial=9.0)
    kept, dropped = unique_rows(pd.concat([rows, again], ignore_index=True))
    assert dropped == len(rows) and (kept["run"] == "a").all()
