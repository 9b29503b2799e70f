# SPDX-License-Identifier: MIT
"""Multi-label data sets in Mulan's format: an ARFF file, dense or sparse, and an XML file with the labels.

Axes: N rows, A attributes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from xml.parsers import expat

import numpy as np

from datamodules.errors import InputError

MAX_LINE = 64 << 20  # characters; a dense row of a million attributes is below it
MAX_CELLS = 1 << 29  # rows x attributes of the dense table, 2 GiB of float32
MAX_XML_BYTES = 64 << 20
CURE = "correct the file, or export it again from Mulan, MEKA or Weka"

# No part of these matches a text in two ways: a line takes linear time.
_ATTRIBUTE = re.compile(
    r"""@attribute\s+(?:(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*|(?P<bare>[^\s'"{]\S*)\s+)(?P<type>\{.*\}|[A-Za-z].*)""",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_HELD = re.compile("\0(\\d+)\0")
_LARGEST = float(np.finfo(np.float32).max)
_NUMERIC = ("numeric", "real", "integer")


@dataclass(frozen=True)
class ArffTable:
    """A table of numbers with named columns."""

    names: tuple[str, ...]  # A attribute names, unique
    # (N, A) float32, finite. Nominal values that are numbers are kept; of two other values, the first of the
    # declaration is 0 and the second 1.
    values: np.ndarray


def read_arff(path: Path | str) -> ArffTable:
    """Reads a UTF-8 ARFF file with dense rows (`1,0,3`) or sparse ones (`{0 1, 2 3}`: other attributes are 0, or have
    their first nominal value).

    Raises:
        InputError: no such file, a malformed line, a missing or infinite value, or an attribute that is neither numeric
            nor nominal with numbers or two values.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8") as stream:
            lines = _lines(path, stream)
            names, codes = _read_header(path, lines)
            return ArffTable(tuple(names), _read_rows(path, lines, codes))
    except OSError as error:
        raise InputError(f"no readable file {path} ({error.strerror})", "an ARFF file", "check data.path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, not UTF-8 ({error.reason})", "UTF-8 text", "convert the file") from None


def read_label_names(path: Path | str) -> tuple[str, ...]:
    """All labels of a Mulan XML file, at any depth of a hierarchy.

    Raises:
        InputError: no such file, not XML, no label, one twice, or a document type, which can expand without bound.
    """
    path = Path(path)
    names: list[str] = []
    expected = 'XML like <labels><label name="..."></label></labels>'

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag.rpartition(":")[2] == "label":
            if "name" not in attributes:
                raise InputError(f"{path} with a label without a name", expected, "name it")
            names.append(attributes["name"])

    def refuse(*declaration: object) -> None:
        raise InputError(f"{path} with a document type", expected, "remove the DOCTYPE")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.StartDoctypeDeclHandler = start, refuse
    try:
        if path.stat().st_size > MAX_XML_BYTES:
            raise InputError(f"{path} of {path.stat().st_size} bytes", f"at most {MAX_XML_BYTES}", "check the path")
        parser.Parse(path.read_bytes(), True)
    except OSError as error:
        cure = "put Mulan's XML beside the ARFF file, or name it with data.xml"
        raise InputError(f"no readable file {path} ({error.strerror})", expected, cure) from None
    except InputError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:  # the latter two: encodings that nobody knows
        raise InputError(f"{path}, no XML ({error})", expected, "correct the file") from None
    if not names:
        raise InputError(f"{path} without a label", expected, "name the labels")
    _refuse_duplicates(path, names, "label")
    return tuple(names)


def _lines(path: Path, stream: TextIO) -> Iterator[tuple[int, str]]:
    """Numbered lines, stripped, without comments and empty ones."""
    for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), ""), start=1):
        if len(line) > MAX_LINE:
            raise InputError(f"{path}: line {number} of more than {MAX_LINE} characters", "a shorter one", CURE)
        if (line := line.strip()) and not line.startswith("%"):
            yield number, line


def _read_header(path: Path, lines: Iterator[tuple[int, str]]) -> tuple[list[str], list[dict[str, float] | None]]:
    """Names and, for each attribute, the numbers of its nominal values (None if it is numeric), up to @data."""
    names: list[str] = []
    codes: list[dict[str, float] | None] = []
    for number, line in lines:
        keyword = line.split(None, 1)[0].lower()
        if keyword == "@data":
            if not names:
                raise InputError(f"{path}: @data in line {number} before any @attribute", "attributes", CURE)
            _refuse_duplicates(path, names, "attribute")
            return names, codes
        if keyword == "@attribute":
            if (match := _ATTRIBUTE.fullmatch(line)) is None:
                raise InputError(f"{path}: line {number}, {line[:60]!r}", "@attribute NAME numeric or {0,1}", CURE)
            names.append(match["bare"] or _unquote(match["quoted"]))
            codes.append(_codes(path, number, names[-1], match["type"]))
        elif keyword != "@relation":
            raise InputError(f"{path}: line {number}, {line[:60]!r}", "@relation, @attribute or @data", CURE)
    raise InputError(f"{path} without a line @data", "an ARFF file", CURE)


def _codes(path: Path, number: int, name: str, declared: str) -> dict[str, float] | None:
    if not declared.startswith("{"):
        if declared.split()[0].lower() in _NUMERIC:
            return None
        got = f"{path}: line {number}, attribute {name!r} of type {declared[:30]!r}"
        raise InputError(got, "numeric, or nominal such as {0,1}", "remove it or encode it as numbers")
    values = _tokens(declared[1:-1])
    if values is None or "" in values or len(set(values)) != len(values):
        got = f"{path}: line {number}, the values {declared[:40]!r} of attribute {name!r}"
        raise InputError(got, "distinct names", CURE)
    numbers = [_number(value) for value in values]
    codes = {value: number for value, number in zip(values, numbers, strict=True) if number is not None}
    if len(codes) == len(values):
        return codes
    if len(values) > 2:
        got = f"{path}: line {number}, attribute {name!r} with {len(values)} values that are no numbers"
        raise InputError(got, "numbers, or two values", "encode it as one attribute per value")
    return {value: float(place) for place, value in enumerate(values)}


def _read_rows(path: Path, lines: Iterator[tuple[int, str]], codes: list[dict[str, float] | None]) -> np.ndarray:
    width = len(codes)
    left_out = np.array([0.0 if code is None else next(iter(code.values())) for code in codes], np.float32)
    rows: list[np.ndarray] = []
    for number, line in lines:
        if (len(rows) + 1) * width > MAX_CELLS:
            got = f"{path} with more than {len(rows)} rows of {width} attributes"
            raise InputError(got, f"at most {MAX_CELLS} cells", "take fewer rows or attributes")
        if line.startswith("{"):
            words = _sparse(path, number, line, width)
        elif (dense := _tokens(line)) is not None and len(dense) == width:
            words = dict(enumerate(dense))
        else:
            found = "unbalanced quotes" if dense is None else f"{len(dense)} values"
            raise InputError(f"{path}: line {number} with {found}", f"{width}, one per attribute", CURE)
        row = left_out.copy()
        row[list(words)] = [_value(path, number, place, word, codes[place]) for place, word in words.items()]
        rows.append(row)
    if not rows:
        raise InputError(f"{path} without a row after @data", "at least one", CURE)
    return np.stack(rows)


def _sparse(path: Path, number: int, line: str, width: int) -> dict[int, str]:
    """Places and values of a row in braces."""
    pairs = _tokens(line[1:-1]) if line.endswith("}") else None
    if pairs is None:
        raise InputError(f"{path}: line {number}, a sparse row that does not end", "{INDEX VALUE, ...}", CURE)
    words: dict[int, str] = {}
    for pair in [] if pairs == [""] else pairs:
        index, _, word = pair.partition(" ")
        if not (index.isascii() and index.isdigit() and len(index) < 10 and word.strip()):
            raise InputError(f"{path}: line {number}, {pair[:40]!r} in a sparse row", "INDEX VALUE", CURE)
        if int(index) >= width:
            raise InputError(f"{path}: line {number}, attribute {index}", f"0 to {width - 1}", CURE)
        if int(index) in words:
            raise InputError(f"{path}: line {number}, an attribute with two values", "one", CURE)
        words[int(index)] = word.strip()
    return words


def _value(path: Path, number: int, place: int, word: str, code: dict[str, float] | None) -> float:
    if code is not None and word in code:
        return code[word]
    value = _number(word)
    # 1.0 is 1 for an attribute {0,1}, but 1 is not the second value of {no,yes}.
    if value is None or (code is not None and (value not in code.values() or None in map(_number, code))):
        what = "a missing value" if word == "?" else f"{word[:40]!r}"
        expected = "a finite number" if code is None else f"one of {', '.join(list(code)[:6])}"
        raise InputError(f"{path}: line {number}, {what} for attribute {place}", expected, CURE)
    return value


def _number(word: str) -> float | None:
    """A finite float32 number, or None; Python's digits_with_underscores are no number."""
    try:
        value = float(word)
    except ValueError:
        return None
    return value if abs(value) <= _LARGEST and "_" not in word else None


def _tokens(text: str) -> list[str] | None:
    """The texts between commas, unquoted; None if a quote is not closed."""
    if "'" not in text and '"' not in text:
        return [word.strip() for word in text.split(",")]
    held: list[str] = []

    def hold(match: re.Match) -> str:
        held.append(_unquote(match[0]))
        return f"\0{len(held) - 1}\0"

    bare = _QUOTED.sub(hold, text.replace("\0", ""))
    if "'" in bare or '"' in bare:
        return None
    return [_HELD.sub(lambda match: held[int(match[1])], word.strip()) for word in bare.split(",")]


def _unquote(word: str) -> str:
    if len(word) >= 2 and word[0] == word[-1] and word[0] in "'\"":
        return re.sub(r"\\(.)", r"\1", word[1:-1])
    return word


def _refuse_duplicates(path: Path, names: list[str], what: str) -> None:
    if len(set(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"{path} with two {what}s {twice!r}", "each once", "rename one")
