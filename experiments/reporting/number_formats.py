# SPDX-License-Identifier: MIT
"""Formats of numbers: percent with two decimals, seconds with three significant digits."""

import math

from experiments.reporting.columns import SYMBOLS, Column, column
from experiments.reporting.statistics import Interval

NOTHING = "–"
_MARKS = {1: "▲", -1: "▼", 0: "≈", None: ""}


def _minus(text: str) -> str:
    """A true minus sign, and none before a zero."""
    if text.startswith("-") and not text.strip("-0."):
        text = text[1:]
    return text.replace("-", "−", 1) if text.startswith("-") else text


def percent(value: float, digits: int = 2) -> str:
    """A share in percent without the sign %, or another metric, such as 91.00."""
    return NOTHING if math.isnan(value) else _minus(f"{value:.{digits}f}")


def points(value: float, digits: int = 2) -> str:
    """A difference in percentage points, or of another metric, signed unless it rounds to 0, such as +0.30."""
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
    """A number with three significant digits, such as 1,650, 3.81, 0.0123 or 2.00e-07."""
    if math.isnan(value):
        return NOTHING
    if value != 0 and abs(value) < 1e-4:
        return _minus(f"{value:.2e}")
    return _minus(f"{float(f'{value:.2e}'):,.{_decimals(value)}f}")


def seconds(value: float, sd: float = math.nan) -> str:
    """A time with three significant digits, with its standard deviation unless NaN, such as 3.81 ± 0.05."""
    text = three_digits(value)
    return text if math.isnan(value) or math.isnan(sd) else f"{text} ± {sd:,.{_decimals(value)}f}"


def spread(mean: float, sd: float, digits: int = 2) -> str:
    """Mean and standard deviation of a metric, such as 89.02 ± 0.10; the mean alone if the deviation is NaN."""
    return percent(mean, digits) if math.isnan(sd) else f"{percent(mean, digits)} ± {sd:.{digits}f}"


def whole(value: float) -> str:
    """A count, such as 50,000."""
    return NOTHING if math.isnan(value) else _minus(f"{value:,.0f}")


def bounds(interval: Interval, digits: int = 2) -> str:
    """The bounds of an interval of differences, "" if it has none."""
    return f"[{points(interval.low, digits)}, {points(interval.high, digits)}]" if interval.known else ""


def difference(interval: Interval, digits: int = 2) -> str:
    """A difference with its interval and the mark of its sign, such as +0.31 [+0.10, +0.52] ▲."""
    parts = points(interval.mean, digits), bounds(interval, digits), _MARKS[interval.sign]
    return " ".join(part for part in parts if part)


def seeds_phrase(counts: list[int]) -> str:
    """The number of seeds of a table: "3 seeds", "a single seed" or "2 to 3 seeds"."""
    low, high = (min(counts), max(counts)) if counts else (0, 0)
    if low != high:
        return f"{low} to {high} seeds"
    return "a single seed" if low == 1 else f"{low} seeds"


def number(of: Column, value: float) -> str:
    """A number with the digits of its column, three significant ones if the column states none."""
    return three_digits(value) if of.digits is None else percent(value, of.digits) if of.digits else whole(value)


def measured(of: Column, value: float | None) -> str:
    """A number with its unit, such as 91.00 %; a dash for None."""
    shown = NOTHING if value is None else number(of, value)
    return f"{shown} {SYMBOLS.get(of.unit, of.unit)}".rstrip()


def any_number(name: str, value: float) -> str:
    """A number of any table, formatted by the column's name (`columns.column`); without a unit it has four digits."""
    if column(name).unit:
        return number(column(name), float(value))
    return NOTHING if math.isnan(value) else whole(value) if float(value).is_integer() else _minus(f"{value:.4g}")
