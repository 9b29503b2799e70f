# SPDX-License-Identifier: MIT
import math

import pytest

from experiments.reporting import number_formats as formats
from experiments.reporting.columns import column
from experiments.reporting.statistics import Interval

NAN = math.nan


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.percent(91.0), "91.00"),
        (formats.percent(NAN), "–"),
        (formats.percent(-0.001), "0.00"),
        (formats.percent(-1.5, 1), "−1.5"),
        (formats.points(0.305), "+0.30"),
        (formats.points(-0.001), "0.00"),
        (formats.three_digits(1647.382), "1,650"),
        (formats.three_digits(3.811), "3.81"),
        (formats.three_digits(0.01234), "0.0123"),
        (formats.three_digits(2e-7), "2.00e-07"),
        (formats.three_digits(9.996), "10.0"),
        (formats.seconds(3.8112, 0.0456), "3.81 ± 0.05"),
        (formats.seconds(NAN, 0.1), "–"),
        (formats.spread(89.021, 0.1), "89.02 ± 0.10"),
        (formats.spread(89.021, NAN), "89.02"),
        (formats.whole(50000.0), "50,000"),
        (formats.difference(Interval(0.31, 0.1, 0.52, 3, sign=1)), "+0.31 [+0.10, +0.52] ▲"),
        (formats.difference(Interval(0.31, count=1)), "+0.31"),
        (formats.seeds_phrase([3, 3]), "3 seeds"),
        (formats.seeds_phrase([1]), "a single seed"),
        (formats.seeds_phrase([2, 3]), "2 to 3 seeds"),
        (formats.measured(column("accuracy"), 91.0), "91.00 %"),
        (formats.any_number("train_seconds", 12.345), "12.3"),
        (formats.any_number("epoch", 1200), "1,200"),
        (formats.any_number("threshold", 1 / 3), "0.3333"),
    ],
)
def test_numbers_are_written_as_a_reader_expects(shown, expected):
    assert shown == expected
