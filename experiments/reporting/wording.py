# SPDX-License-Identifier: MIT
"""Numbers as a reader sees them: percent with two decimals, seconds with three significant digits."""

import math

from experiments.reporting.statistics import Interval

NOTHING = "–"
PERCENT_COLUMNS = frozenset(
    {
        "accuracy", "precision", "recall", "f1", "cluster_accuracy_train", "cluster_accuracy_test",
        "micro_f1", "macro_f1", "precision_at_1", "precision_at_3", "precision_at_5", "hamming_loss",
        "knn_accuracy", "pair_f1", "eer",
    }
)  # fmt: skip


def is_percent(column: str) -> bool:
    """Whether a column of results.csv is in percent, by its name.

    Args:
        column: validated_<metric> and <metric>_std are as <metric> is.

    >>> is_percent("validated_f1"), is_percent("val_at_far_0.001_std"), is_percent("auc")
    (True, True, False)
    """
    name = column.lower().removeprefix("validated_").removesuffix("_std")
    return name in PERCENT_COLUMNS or name.startswith(("val_at_far_", "far_measured_"))


def _minus(text: str) -> str:
    """A true minus sign, and none before a zero."""
    if text.startswith("-") and not text.strip("-0."):
        text = text[1:]
    return text.replace("-", "−", 1) if text.startswith("-") else text


def percent(value: float) -> str:
    """A share in percent, without the sign.

    Args:
        value: in percent; NaN gives a dash.

    >>> percent(91.0), percent(float("nan"))
    ('91.00', '–')
    """
    return NOTHING if math.isnan(value) else _minus(f"{value:.2f}")


def points(value: float) -> str:
    """A difference in percentage points, always signed unless it rounds to 0.

    Args:
        value: in points.

    >>> points(0.305), points(-0.001)
    ('+0.30', '0.00')
    """
    if math.isnan(value):
        return NOTHING
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else _minus(text)


def _decimals(value: float) -> int:
    """Decimals that show three significant digits."""
    if value == 0:
        return 0
    return max(0, 2 - math.floor(math.log10(abs(float(f"{value:.2e}")))))


def three_digits(value: float) -> str:
    """A number with three significant digits, such as seconds or a factor.

    Args:
        value: NaN gives a dash.

    >>> three_digits(1647.382), three_digits(3.811), three_digits(0.01234), three_digits(2e-7)
    ('1,650', '3.81', '0.0123', '2.00e-07')
    """
    if math.isnan(value):
        return NOTHING
    if value != 0 and abs(value) < 1e-4:
        return _minus(f"{value:.2e}")
    return _minus(f"{float(f'{value:.2e}'):,.{_decimals(value)}f}")


def seconds(value: float, sd: float = math.nan) -> str:
    """A time with three significant digits; its standard deviation, if any, with as many decimals.

    Args:
        value: in seconds; NaN gives a dash.
        sd: in seconds; NaN leaves it out.

    >>> seconds(3.8112, 0.0456)
    '3.81 ± 0.05'
    """
    text = three_digits(value)
    return text if math.isnan(value) or math.isnan(sd) else f"{text} ± {sd:,.{_decimals(value)}f}"


def spread(mean: float, sd: float) -> str:
    """Mean and standard deviation in percent; the mean alone where there is no spread (one seed).

    Args:
        mean: in percent.
        sd: in points, NaN for a single value.

    >>> spread(89.021, 0.1), spread(89.021, float("nan"))
    ('89.02 ± 0.10', '89.02')
    """
    return percent(mean) if math.isnan(sd) else f"{percent(mean)} ± {sd:.2f}"


def whole(value: float) -> str:
    """A count with thousands separated.

    Args:
        value: NaN gives a dash.

    >>> whole(50000.0)
    '50,000'
    """
    return NOTHING if math.isnan(value) else _minus(f"{value:,.0f}")


def bounds(interval: Interval) -> str:
    """The bounds of an interval in points, "" where it has none.

    Args:
        interval: in points.
    """
    return f"[{points(interval.low)}, {points(interval.high)}]" if interval.known else ""


SIGNS = {1: "▲", -1: "▼", 0: "≈", None: ""}


def difference(interval: Interval) -> str:
    """A difference with its interval and a sign that tells whether the interval lies above, below or around 0.

    Args:
        interval: in points.

    >>> difference(Interval(0.31, 0.1, 0.52, 3)), difference(Interval(0.31, float("nan"), float("nan"), 1))
    ('+0.31 [+0.10, +0.52] ▲', '+0.31')
    """
    return " ".join(part for part in (points(interval.mean), bounds(interval), SIGNS[interval.sign]) if part)


def seeds_phrase(counts: list[int]) -> str:
    """How many seeds a table rests on.

    Args:
        counts: the number of seeds of each of its rows.

    >>> seeds_phrase([3, 3]), seeds_phrase([1]), seeds_phrase([2, 3])
    ('3 seeds', 'a single seed', '2 to 3 seeds')
    """
    low, high = (min(counts), max(counts)) if counts else (0, 0)
    if low != high:
        return f"{low} to {high} seeds"
    return "a single seed" if low == 1 else f"{low} seeds"


def any_number(column: str, value: float) -> str:
    """A number in a table whose columns are not known here, formatted by the column's name.

    Args:
        column: a metric's name gives percent, "seconds" in the name three digits, anything else four digits.
        value: NaN gives a dash.

    >>> any_number("train_seconds", 12.345), any_number("epoch", 1200), any_number("threshold", 1 / 3)
    ('12.3', '1,200', '0.3333')
    """
    if is_percent(column) and column != "hamming_loss":  # whose 0.56 and 0.5634 differ
        return percent(float(value))
    if "seconds" in column.lower():
        return three_digits(float(value))
    if math.isnan(value):
        return NOTHING
    if float(value).is_integer():
        return whole(float(value))
    return _minus(f"{value:.4g}")
