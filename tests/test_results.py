# SPDX-License-Identifier: MIT
"""tests/results.py: README's table is read whole, and another number is noticed."""

from tests.results import ROOT, ROWS, RUNS, compared, stated

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_row_and_column_of_the_table_is_read():
    expected = stated(README)
    assert expected.keys() == {(data, scenario) for data in RUNS for scenario, _ in ROWS.values()}
    for (_, scenario), numbers in expected.items():
        assert len(numbers) == (3 if scenario == "difference" else 2)
    table = "| KNN: nothing is trained | 88.58 ± 0.21 | 1.0 ± 0.1 | −2.0 ± 0.2 |"
    assert stated(table)["omniglot", "knn"] == [88.58, 0.21] and stated(table)["han", "knn"] == [-2.0, 0.2]


def test_a_number_beyond_its_tolerance_is_reported():
    expected = {("omniglot", "knn"): [88.58, 0.21], ("omniglot", "difference"): [0.92, -0.18, 2.02]}
    for change, said in ((0.02, "ok"), (0.03, "DIFFERS"), (-0.03, "DIFFERS")):
        (line,) = compared("omniglot", expected, {"knn": [88.58 + change, 0.21]})
        assert line.startswith(said)
        (line,) = compared("omniglot", expected, {"difference": [0.92, -0.18 + 5 * change, 2.02]})
        assert line.startswith(said)
