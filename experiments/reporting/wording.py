# SPDX-License-Identifier: MIT
"""Numbers as a reader sees them: percent with two decimals, seconds with three significant digits."""

import math

from experiments.reporting.columns import SYMBOLS, Column, column
from experiments.reporting.statistics import Interval

NOTHING = "–"


def _minus(text: str) -> str:
    """A true minus sign, and none before a zero."""
    if text.startswith("-") and not text.strip("-0."):
        text = text[1:]
    return text.replace("-", "−", 1) if text.startswith("-") else text


def percent(value: float, digits: int = 2) -> str:
    """A share in percent, without the sign, or another metric.

    >>> percent(91.0), percent(float("nan"))
    ('91.00', '–')
    """
    return NOTHING if math.isnan(value) else _minus(f"{value:.{digits}f}")


def points(value: float, digits: int = 2) -> str:
    """A difference in percentage points, or of another metric, always signed unless it rounds to 0.

    >>> points(0.305), points(-0.001)
    ('+0.30', '0.00')
    """
    if math.isnan(value):
        return NOTHING
    text = f"{value:+.{digits}f}"
    return _minus(text) if text.strip("+-0.") else text[1:]


def _decimals(value: float) -> int:
    """Decimals that show three significant digits."""
    if value == 0:
        return 0
    return max(0, 2 - math.floor(math.log10(abs(float(f"{value:.2e}")))))


def three_digits(value: float) -> str:
    """A number with three significant digits, such as seconds or a factor.

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


def spread(mean: float, sd: float, digits: int = 2) -> str:
    """Mean and standard deviation of a metric; the mean alone where there is no spread (one seed).

    Args:
        mean: in percent, or in the metric's unit.

    >>> spread(89.021, 0.1), spread(89.021, float("nan"))
    ('89.02 ± 0.10', '89.02')
    """
    return percent(mean, digits) if math.isnan(sd) else f"{percent(mean, digits)} ± {sd:.{digits}f}"


def whole(value: float) -> str:
    """A count with thousands separated.

    >>> whole(50000.0)
    '50,000'
    """
    return NOTHING if math.isnan(value) else _minus(f"{value:,.0f}")


def bounds(interval: Interval, digits: int = 2) -> str:
    """The bounds of an interval of differences, "" where it has none."""
    return f"[{points(interval.low, digits)}, {points(interval.high, digits)}]" if interval.known else ""


SIGNS = {1: "▲", -1: "▼", 0: "≈", None: ""}


def difference(interval: Interval, digits: int = 2) -> str:
    """A difference with its interval and a sign that tells whether the interval lies above, below or around 0.

    >>> difference(Interval(0.31, 0.1, 0.52, 3)), difference(Interval(0.31, float("nan"), float("nan"), 1))
    ('+0.31 [+0.10, +0.52] ▲', '+0.31')
    """
    parts = points(interval.mean, digits), bounds(interval, digits), SIGNS[interval.sign]
    return " ".join(part for part in parts if part)


def seeds_phrase(counts: list[int]) -> str:
    """How many seeds a table rests on.

    >>> seeds_phrase([3, 3]), seeds_phrase([1]), seeds_phrase([2, 3])
    ('3 seeds', 'a single seed', '2 to 3 seeds')
    """
    low, high = (min(counts), max(counts)) if counts else (0, 0)
    if low != high:
        return f"{low} to {high} seeds"
    return "a single seed" if low == 1 else f"{low} seeds"


def number(of: Column, value: float) -> str:
    """A number as its column shows it.

    Args:
        of: the column; digits after the point as it says, three significant ones where it does not.
    """
    return three_digits(value) if of.digits is None else percent(value, of.digits) if of.digits else whole(value)


def measured(of: Column, value: float | None) -> str:
    """A number with its unit.

    Args:
        value: None gives a dash.

    >>> measured(column("accuracy"), 91.0)
    '91.00 %'
    """
    shown = NOTHING if value is None else number(of, value)
    return f"{shown} {SYMBOLS.get(of.unit, of.unit)}".rstrip()


def any_number(name: str, value: float) -> str:
    """A number in a table whose columns are not known here, formatted by the column's name.

    Args:
        name: of a metric in percent or of seconds, see `columns.column`; anything else has four digits.

    >>> any_number("train_seconds", 12.345), any_number("epoch", 1200), any_number("threshold", 1 / 3)
    ('12.3', '1,200', '0.3333')
    """
    if column(name).unit:
        return number(column(name), float(value))
    if math.isnan(value):
        return NOTHING
    if float(value).is_integer():
        return whole(float(value))
    return _minus(f"{value:.4g}")
