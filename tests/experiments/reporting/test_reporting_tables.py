# SPDX-License-Identifier: MIT
import io

import pandas as pd
import pytest
from made_up_run import fake_details, fake_results
from rich.console import Console

from experiments.reporting import clusters, convergence, error_analysis, figures, tables
from experiments.reporting.canvas import legend_entries
from experiments.reporting.methods import OTHERS, label_methods, looks, method_order, scenario_order
from experiments.reporting.terminal import terminal_table
from experiments.reporting.verdict import verdict


def cells(table, heading):
    column = table.columns.index(heading)
    return {row[0].text: row[column].text for row in table.rows}


def fixed(values: dict[str, list[float]], n=1200) -> pd.DataFrame:
    """Rows with given scores, one for each seed."""
    rows = fake_results(["omniglot"], [n], range(len(next(iter(values.values())))), tuple(values))
    for metric in ("precision", "recall", "f1", "accuracy"):
        rows[metric] = [values[s][seed] for s, seed in zip(rows["scenario"], rows["seed"], strict=True)]
    return rows


SCORES = {
    "no_distribution": [90.0, 90.5, 91.0],
    "ism": [91.0, 91.5, 92.3],
    "clustered_nearest": [91.4, 91.8, 92.7],
}


def test_table_2_by_hand():
    table = tables.scores_table(label_methods(fixed(SCORES)))
    # sd of 91.0, 91.5, 92.3 is 0.6557
    assert cells(table, "F1")["ISM (random + max-max)"] == "91.60 ± 0.66"
    assert cells(table, "Seeds")["ISM (random + max-max)"] == "3"
    assert table.caption.endswith("omniglot, N = 1,200")
    assert "sample standard deviation over seeds (3 seeds" in table.note
    best = [row[0].text for row in table.rows if row[table.columns.index("F1")].tone == "best"]
    assert best == ["Clustered + nearest class"]


def test_differences_by_hand():
    table = tables.differences_table(label_methods(fixed(SCORES)), "ism")
    # differences 0.4, 0.3, 0.4: mean 0.3667, half width 4.3027 * 0.05774 * sqrt(1/3 + 4/12) = 0.2028; p = 0.016,
    # which Holm's correction multiplies by up to 6
    assert cells(table, "F1")["Clustered + nearest class"] == "+0.37 [+0.16, +0.57] ≈"
    # -1.0, -1.0, -1.3: mean -1.1, half width 4.3027 * 0.1732 * sqrt(1/3 + 4/12) = 0.6085
    assert cells(table, "Recall")["No distribution"] == "−1.10 [−1.71, −0.49] ≈"
    assert "of the same seed; 3 seeds" in table.note and "the 6 comparisons" in table.note
    clear = SCORES | {"clustered_nearest": [value + 2 for value in SCORES["ism"]]}
    table = tables.differences_table(label_methods(fixed(clear)), "ism")
    assert cells(table, "F1")["Clustered + nearest class"] == "+2.00 [+2.00, +2.00] ▲"


def test_a_single_seed_has_neither_spread_nor_interval():
    one = label_methods(fixed({name: values[:1] for name, values in SCORES.items()}))
    assert cells(tables.scores_table(one), "F1")["No distribution"] == "90.00"
    assert "a single seed" in tables.scores_table(one).note
    assert cells(tables.differences_table(one, "ism"), "F1")["Clustered + nearest class"] == "+0.40"


def test_no_differences_without_the_reference():
    frame = label_methods(fixed({name: SCORES[name] for name in ("ism", "clustered_nearest")}))
    assert tables.differences_table(frame, "no_distribution") is None


def test_table_1_reads_either_source():
    frame = label_methods(fake_results(["d"], [10000], [0, 1, 2]))
    from_results = tables.cluster_accuracy_table(frame)
    # Only routers that a scenario uses have a row; KNN and no distribution route nothing.
    assert [row[0].text for row in from_results.rows] == ["max-max", "nearest class"]
    routing = fake_details("d", 10000, [0, 1, 2])["routing"]
    table = tables.cluster_accuracy_table(routing)
    assert [row[0].text for row in table.rows] == ["cluster mean", "max-max", "nearest class"]
    assert list(table.columns[1:]) == [
        f"{p}, {s}" for p in ("random partition (ISM)", "k-means partition") for s in ("train", "test")
    ]
    rows = routing[(routing["partitioner"] == "kmeans") & (routing["router"] == "cluster_mean")]
    expected = f"{rows['cluster_accuracy_test'].mean():.2f} ± {rows['cluster_accuracy_test'].std():.2f}"
    assert cells(table, "k-means partition, test")["cluster mean"] == expected


def test_table_1_counts_scenarios_that_share_a_routing_once():
    frame = fake_results(["d"], [10000], [0], scenarios=("clustered_nearest", "clustered_fused"))
    frame["cluster_accuracy_test"] = 97.0
    assert "a single seed" in tables.cluster_accuracy_table(label_methods(frame)).note
    frame["cluster_accuracy_test"] = frame["cluster_accuracy_train"] = None
    assert tables.cluster_accuracy_table(label_methods(frame)) is None


def test_table_3_has_three_digits_and_dashes_for_knn():
    table = tables.times_table(label_methods(fake_results(["d"], [10000], [0, 1])))
    assert cells(table, "Serial (s)")["KNN (class means)"] == "–"
    assert cells(table, "Speed-up, serial")["No distribution"] == "1.00"
    serial, parallel = (cells(table, f"Speed-up, {k}")["Clustered + nearest class"] for k in ("serial", "parallel"))
    assert float(parallel) > float(serial) > 1
    assert cells(table, "Parameters")["Clustered + nearest class"] == "5,120,000"
    assert "from the same run" in table.note


def test_known_scenarios_come_first_in_the_papers_order():
    names = ["zeta", "clustered_fused", "ism", "alpha", "no_distribution", "knn"]
    assert scenario_order(names) == ["no_distribution", "ism", "knn", "clustered_fused", "alpha", "zeta"]
    frame = label_methods(fake_results(["d"], [1000], [0], scenarios=tuple(names)))
    assert method_order(frame)[-2:] == ["Alpha", "Zeta"]
    with_less = label_methods(fake_results(["d"], [1000], [0], scenarios=("ism", "zeta")))
    assert looks(with_less)["ISM (random + max-max)"] == looks(frame)["ISM (random + max-max)"]
    assert len({(look.colour, look.marker) for look in looks(frame).values()}) == len(names)


def test_of_many_methods_the_known_ones_keep_their_looks_and_the_rest_is_one_entry_of_the_legend():
    many = ("ism", "clustered_nearest", *(f"loss={i}" for i in range(20)))
    look = looks(label_methods(fake_results(["d"], [1000], [0], scenarios=many)))
    few = looks(label_methods(fake_results(["d"], [1000], [0], scenarios=many[:3])))
    assert look["ISM (random + max-max)"] == few["ISM (random + max-max)"]
    assert {look[f"Proposal, loss {i}"] for i in range(20)} == {OTHERS} and OTHERS not in few.values()
    names = [name for name, _ in legend_entries(look)]
    assert names == ["ISM (random + max-max)", "Clustered + nearest class", "20 others, see the table"]
    assert legend_entries(few) == list(few.items())


def test_no_method_beats_a_leading_one_in_both():
    rows = pd.DataFrame({
        "method": list("abcde"), "train_seconds": [1.0, 2.0, 2.0, 3.0, 4.0], "f1": [80.0, 90.0, 85.0, 90.0, 95.0]
    })  # fmt: skip
    assert figures._leading(rows, "f1") == {"a", "b", "e"}


def test_variants_are_never_averaged_together():
    half = fake_results(["d"], [1000], [0, 1], scenarios=("ism", "clustered_nearest"))
    doubled = half.assign(n_subnets=4)
    frame = label_methods(pd.concat([half, doubled]))
    assert sorted(frame["method"].unique()) == [
        f"{name} [m={m}]" for name in ("Clustered + nearest class", "ISM (random + max-max)") for m in (2, 4)
    ]
    # They share the scenario's colour and differ in marker and dashes.
    half_look, doubled_look = (looks(frame)[f"ISM (random + max-max) [m={m}]"] for m in (2, 4))
    assert half_look.colour == doubled_look.colour
    assert half_look.marker != doubled_look.marker and half_look.dashes != doubled_look.dashes
    # The same scenario at another N has another m without being a variant.
    assert not label_methods(fake_results(["d"], [5000, 20000], [0]))["method"].str.contains("=").any()


def test_a_row_that_could_not_be_run_makes_no_second_data_set():
    frame = fake_results(["d"], [1000], [0], scenarios=("ism", "clustered_nearest", "faiss_ivf"))
    frame.loc[frame["scenario"] == "faiss_ivf", "extractor"] = None
    assert set(label_methods(frame)["data"]) == {"d"}
    frame.loc[frame["scenario"] == "ism", "extractor"] = "dlib"
    assert label_methods(frame)["data"].nunique() > 1


def test_of_many_equally_good_scenarios_three_are_named():
    equal = {name: [90.0, 91.0] for name in ("ism", "clustered_nearest", "knn", "no_distribution", "partial_fc")}
    sentence = verdict(label_methods(fixed(equal))).sentence
    assert sentence.endswith(", and 2 others alike.") and sentence.count("90.50") == 3


def test_the_verdict_compares_systems_of_equal_data():
    again = fixed({name: [99.0, 99.1, 99.2] for name in SCORES}).assign(train_samples=20_000)
    again["scenario"] += ",refit=train_val"
    both = label_methods(pd.concat([fixed(SCORES), again]))
    assert verdict(both).sentence == verdict(label_methods(fixed(SCORES))).sentence
    assert "99.10" in verdict(label_methods(again)).sentence  # nothing else was run


def test_labelling_leaves_its_input_alone():
    frame = fake_results(["d"], [1000], [0]).assign(run="")
    before = frame.copy()
    label_methods(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_verdict_names_the_interval_and_its_side():
    finding = verdict(label_methods(fixed(SCORES)))
    assert "(3 seeds), Clustered + nearest class is above ISM (+0.37 points, 95 % interval +0.16 to +0.57), " in (
        finding.sentence
    )
    assert ", no distribution (+1.47 points" in finding.sentence
    assert finding.sentence.endswith("; it has the highest mean (91.97 ± 0.67 %).")
    remarks = " ".join(finding.remarks)
    assert "Nadeau & Bengio" in remarks and "Holm's correction over 2 comparison(s)" in remarks


def test_verdict_never_tells_a_gain_over_ism_without_knn():
    better = SCORES | {"knn": [value + 2.2 for value in SCORES["clustered_nearest"]]}
    sentence = verdict(label_methods(fixed(better))).sentence
    assert "is above ISM" in sentence
    assert "is below KNN (untrained; −2.20 points" in sentence
    assert "the highest mean has KNN (class means)" in sentence
    without = verdict(label_methods(fixed(SCORES)))
    assert any("KNN, which needs no training, is not compared" in remark for remark in without.remarks)


def test_verdict_isolates_the_clustering_and_names_the_lead_of_the_best_scenario():
    more = SCORES | {"random_nearest": SCORES["clustered_nearest"], "clustered_fused": [91.9, 92.4, 93.2]}
    sentence = verdict(label_methods(fixed(more))).sentence
    # Equal scores: the difference is 0 in every seed.
    assert "is not shown to differ from random + nearest class (no clustering; 0.00 points" in sentence
    # 0.5, 0.6, 0.5: mean 0.533, half width 4.3027 * 0.05774 * sqrt(2/3) = 0.203
    assert "the highest mean has Clustered + fused" in sentence
    assert sentence.endswith("which is above Clustered + nearest class (+0.53 points, 95 % interval +0.33 to +0.74).")


def test_verdict_marks_hold_after_holms_correction():
    # Differences 0.4, 0.6, 0.5: t = 0.5 / (0.1 * sqrt(2/3)) = 6.12, p = 0.0256: enough alone, not among two.
    close = {"ism": [91.0, 91.5, 92.3], "clustered_nearest": [91.4, 92.1, 92.8]}
    assert "is above ISM" in verdict(label_methods(fixed(close))).sentence
    sentence = verdict(label_methods(fixed(close | {"knn": [91.4, 91.9, 93.0]}))).sentence
    assert "is not shown to differ from ISM (+0.50 points, 95 % interval +0.15 to +0.85), KNN (untrained; " in sentence


def test_verdict_is_honest_about_zero_and_single_seeds():
    noisy = SCORES | {"clustered_nearest": [92.0, 91.0, 92.6]}
    assert "is not shown to differ from ISM (" in verdict(label_methods(fixed(noisy))).sentence
    one = verdict(label_methods(fixed({name: values[:1] for name, values in SCORES.items()})))
    assert "a single seed: no interval" in one.sentence and "95 %" not in one.sentence
    worse = SCORES | {"clustered_nearest": [value - 5 for value in SCORES["ism"]]}
    assert "is below ISM (−5.00 points" in verdict(label_methods(fixed(worse))).sentence


def test_verdict_without_the_proposal_or_any_reference():
    finding = verdict(label_methods(fixed({"ism": SCORES["ism"], "knn": SCORES["no_distribution"]})))
    assert "KNN (class means) is below ISM" in finding.sentence
    assert "was not run" in finding.remarks[0]
    alone = verdict(label_methods(fixed({"ism": SCORES["ism"]})))
    assert alone.sentence.endswith("(3 seeds), ISM (random + max-max) reaches 91.60 ± 0.66 %.")


def test_verdict_speaks_of_real_data_at_its_largest_n_and_counts_the_rest():
    frame = fake_results(["synthetic_big", "real"], [1000, 4000], [0, 1, 2])
    frame.loc[frame["dataset"] == "synthetic_big", "n_identities"] *= 10
    finding = verdict(label_methods(frame))
    assert "on real with N = 4,000" in finding.sentence
    assert any(remark.startswith("Against ISM over all 4 settings: ") for remark in finding.remarks)


def test_details_tables():
    details = fake_details("d", 2000, [0, 1], m=4, epochs=20)
    slow = clusters.slowest_table(details["history"])
    # The undistributed network takes more than six times as long as any other.
    assert [row[1].text for row in slow.rows[:3]] == ["No distribution", "No distribution", slow.rows[2][1].text]
    worst = clusters.worst_table(details["clusters"], count=3)
    recalls = [float(row[worst.columns.index("Test recall (%)")].text) for row in worst.rows]
    assert recalls == sorted(recalls) and recalls[0] == pytest.approx(
        details["clusters"]["test_recall"].min(), abs=0.005
    )
    hard = error_analysis.hardest_table(details["identities"], count=5)
    assert len(hard.rows) == 5 and hard.columns[1:3] == ("ISM (random + max-max)", "Clustered + nearest class")
    converged = convergence.convergence_table(details["history"])
    gains = cells(converged, "Gain in the last tenth (points)")
    # 1 - exp(-0.12 t) still rises by 95 * (exp(-0.12 * 18) - exp(-0.12 * 20)) = 2.34 in the last two of 20 epochs.
    assert float(gains["No distribution"]) == pytest.approx(2.34, abs=0.7)


def test_details_with_blank_columns():
    details = fake_details("d", 2000, [0], m=2, epochs=1)
    blank = details["history"].assign(epoch_seconds=float("nan"), val_accuracy=float("nan"))
    assert clusters.slowest_table(blank) is None
    assert cells(convergence.convergence_table(blank), "Gain in the last tenth (points)")["k-means partition"] == "–"
    assert clusters.worst_table(details["clusters"].assign(test_recall=float("nan"))) is None


@pytest.mark.parametrize("sizes", [[1000], [1000, 5000]])
def test_terminal_table_fits_eighty_columns(sizes):
    frame = label_methods(fake_results(["omniglot"], sizes, [0, 1, 2]))
    stream = io.StringIO()
    Console(file=stream, width=80).print(terminal_table(frame))
    text = stream.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert text.count("clustered_nearest") == len(sizes) and "▲" in text and "3 seeds" in text


def test_terminal_table_takes_names_for_text_not_markup():
    frame = label_methods(fake_results(["[bold red]x[/bold red]"], [1000], [0]))
    stream = io.StringIO()
    Console(file=stream, width=120).print(terminal_table(frame))
    assert "[bold" in stream.getvalue()
