# SPDX-License-Identifier: MIT
"""Record files of VGGFace2, MS-Celeb-1M and Glint360K: train.rec, train.idx, property.

A record is, little-endian: magic number (4 bytes), length and continuation flag (4 bytes), payload, padding to 4 bytes.
The payload of an image is: flag, label, two ids (24 bytes), `flag` further float labels, the JPEG or PNG. Record 0
holds two numbers a, b: images have the keys 1 to a - 1, identities a to b - 1, and the record of an identity holds the
range of keys of its images.
"""

import logging
import os
import struct
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import InputError, one_line
from datamodules.files import atomic_file
from datamodules.images import MAX_FILE_BYTES, RejectedImage
from datamodules.sources.base import NAMES, Listing, Source, runs

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_RECORD = struct.Struct("<II")
_IMAGE = struct.Struct("<IfQQ")
_LENGTH_BITS = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)  # continuation flags
# Ranges are stored as float32, which is exact up to here; Glint360K has 17 million images. Beyond, a range may be off
# by a few, and the images themselves say whose they are.
EXACT = 2**24
SLACK = 4
MAX_LABELS = 1024  # per record; the releases use at most 2, a damaged header may state billions
DAMAGED = "fetch the file again, it is damaged"


logger = logging.getLogger(__name__)


class RecordFile:
    """Reads records at given offsets, never past the end. Forked and threaded readers can share it."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"no file {self.path}", "a record file", "check source.root")
        self.size = self.path.stat().st_size
        self._descriptor: int | None = None

    def __getstate__(self) -> dict:
        return {**vars(self), "_descriptor": None}

    def __del__(self):
        if (descriptor := getattr(self, "_descriptor", None)) is not None:
            os.close(descriptor)

    def payload(self, offset: int, at_most: int | None = None) -> bytes:
        """The payload of the record at `offset`, or `at_most` bytes of it; refuses an offset without a whole record."""
        parts: list[bytes] = []
        total, start = 0, offset
        while True:
            flag, length = self._head(start, first=not parts)
            total += length
            if total > MAX_FILE_BYTES:
                raise self._error(offset, f"a record of {total:,} bytes", f"at most {MAX_FILE_BYTES:,}")
            wanted = length if at_most is None else min(length, at_most)
            parts.append(self._bytes(start + _RECORD.size, wanted))
            if flag in (_WHOLE, _LAST) or wanted < length:
                # The writer cuts a payload at every magic number in it and leaves the number out.
                return _MAGIC_BYTES.join(parts)
            start += _RECORD.size + length + (-length) % 4

    def starts(self) -> Iterator[int]:
        """The offset of every record, in order; refuses a file with anything else in it."""
        offset = start = 0
        while offset < self.size:
            flag, length = self._head(offset, first=offset == start)
            offset += _RECORD.size + length + (-length) % 4
            if flag in (_WHOLE, _LAST):
                yield start
                start = offset

    def _head(self, offset: int, first: bool) -> tuple[int, int]:
        last = max(self.size - _RECORD.size, 0)
        if not 0 <= offset <= last or self.size < _RECORD.size:
            raise self._error(offset, "no room for a record", f"an offset of at most {last:,}")
        magic, length = _RECORD.unpack(self._bytes(offset, _RECORD.size))
        if magic != MAGIC:
            raise self._error(offset, f"magic number {magic:#010x}", f"{MAGIC:#010x}")
        flag = length >> _LENGTH_BITS
        if flag not in ((_WHOLE, _FIRST) if first else (_MIDDLE, _LAST)):
            raise self._error(offset, f"continuation flag {flag}", "a start" if first else "a continuation")
        length &= (1 << _LENGTH_BITS) - 1
        if offset + _RECORD.size + length > self.size:
            raise self._error(offset, f"a record of {length:,} bytes", "one that ends within the file")
        return flag, length

    def _bytes(self, offset: int, count: int) -> bytes:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        content = os.pread(self._descriptor, count, offset)
        if len(content) != count:  # the file has shrunk since it was opened
            raise self._error(offset, f"{len(content)} bytes", f"{count}")
        return content

    def _error(self, offset: int, got: str, expected: str) -> InputError:
        return InputError(f"{self.path} at offset {offset:,}: {got}", expected, DAMAGED)


def unpack_image(payload: bytes, where: str) -> tuple[np.ndarray, bytes]:
    """The labels, (1,) or more float32, and the encoded image, perhaps empty, of a payload or of its first bytes.

    Refuses a payload that is shorter than its header says.
    """
    if len(payload) < _IMAGE.size:
        raise InputError(f"{where}: a payload of {len(payload)} bytes", f"at least {_IMAGE.size}", DAMAGED)
    n_labels, label, _, _ = _IMAGE.unpack_from(payload)
    if n_labels == 0:
        return np.array([label], np.float32), payload[_IMAGE.size :]
    end = _IMAGE.size + 4 * n_labels
    if n_labels > MAX_LABELS or len(payload) < end:
        got = f"{where}: {n_labels:,} labels in a payload of {len(payload)} bytes"
        raise InputError(got, "labels that fit", DAMAGED)
    return np.frombuffer(payload, "<f4", n_labels, _IMAGE.size), payload[end:]


def read_index(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Reads lines `key<TAB>offset`: keys, ascending, and their offsets, both (R,) int64.

    Refuses a missing file, another line, a negative number, and a key twice.
    """
    path = Path(path)
    expected, again = "lines with a key, a tab and an offset", "source.rebuild_index=true makes it anew"
    cure = f"fetch the index again, or {again}"
    if not path.is_file():
        raise InputError(f"no file {path}", expected, f"put the index beside the record file, or {again}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}, empty", expected, cure)
    try:
        lines = np.loadtxt(path, dtype=np.int64, delimiter="\t", comments=None, ndmin=2)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}, unreadable ({one_line(error)})", expected, cure) from None
    if lines.shape[1] != 2 or not len(lines) or lines.min() < 0:
        raise InputError(f"{path} with negative numbers or {lines.shape[1]} columns", expected, cure)
    lines = lines[np.argsort(lines[:, 0], kind="stable")]
    if (twice := np.flatnonzero(np.diff(lines[:, 0]) == 0)).size:
        raise InputError(f"{path} with the key {lines[twice[0], 0]} twice", "each key once", cure)
    return np.ascontiguousarray(lines[:, 0]), np.ascontiguousarray(lines[:, 1])


def rebuild_index(records: RecordFile, path: Path | str) -> int:
    """Writes the index of a record file, and returns the number of records.

    The key of a record is the first id in its payload. If those are not unique, the header record has the key 0, and
    the others count from 1 in the order of the file; without a header they count from 0.

    Raises InputError: a file that is damaged, or without records.
    """
    offsets, ids, headers = array("Q"), array("Q"), []  # compact: Glint360K has 17 million records
    for offset in records.starts():
        head = records.payload(offset, _IMAGE.size + 4 * 2 + 1)
        if len(head) < _IMAGE.size:
            raise InputError(f"{records.path} at offset {offset:,}: no image record", "images and ranges", DAMAGED)
        n_labels, _, key, _ = _IMAGE.unpack_from(head)
        if n_labels == 2 and len(head) == _IMAGE.size + 4 * 2:  # labels without an image: a range of keys
            headers.append((len(offsets), *struct.unpack_from("<2f", head, _IMAGE.size)))
        offsets.append(offset)
        ids.append(key)
    if not offsets:
        raise InputError(f"{records.path} without records", "at least one", "check source.root")
    keys, count = np.array(ids), len(offsets)
    if len(np.unique(keys)) < count:
        # The last key of the range in the header is that of the last record; every other range is one of images.
        ranges = count - len(headers) + 1, count
        place = next((place for place, *bounds in headers if tuple(bounds) == ranges), 0)
        keys = np.arange(count) + (np.arange(count) < place)
        keys[place] = 0
    order = np.argsort(keys, kind="stable").tolist()
    with atomic_file(path) as temporary, open(temporary, "w", encoding="ascii") as stream:
        stream.writelines(f"{keys[row]}\t{offsets[row]}\n" for row in order)
    return count


class RecordIO(Source):
    """A record file of aligned faces with its index, as InsightFace publishes training sets.

    Identities are named by their number in the file, images `identity/key`.

    Args:
        root: folder with train.rec, train.idx and, optionally, property ("identities,height,width").
        rebuild_index: whether an index that is missing or cannot be read is made anew of the record file.
        **options: see `Source`.
    """

    aligned = True

    def __init__(self, root: Path | str, name: str = "train", rebuild_index: bool = False, **options: Any):
        super().__init__(**options)
        self.root = Path(os.path.expanduser(root))
        self.name, self.rebuild_index = name, rebuild_index

    def describe(self) -> str:
        return f"record file {self.root.name}/{self.name}.rec"

    def scan(self) -> Listing:
        keys, numbers, n_identities = self._images()
        if not len(keys):
            raise InputError(f"{self._records.path} without images", "at least one", "check source.root")
        self._check_property(n_identities)
        order = np.argsort(numbers, kind="stable")
        known, labels = np.unique(numbers[order], return_inverse=True)
        width = len(str(known[-1]))
        identities = tuple(f"{number:0{width}d}" for number in known.tolist())
        digits = np.strings.zfill(keys[order].astype(NAMES), len(str(keys.max())))
        names = np.strings.add(np.strings.add(np.array(identities, NAMES)[labels], "/"), digits)
        return Listing(names.astype(NAMES), labels.astype(np.int32), identities)

    def read(self, name: str) -> bytes:
        try:
            identity, key = (int(part) for part in name.split("/"))
            labels, image = self._record(key)
            if labels[0] != identity:
                raise RejectedImage(f"record {key} is of identity {labels[0]:g}")
            return image
        except (ValueError, InputError) as error:
            raise RejectedImage(str(error)) from None

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        path = self.root / f"{self.name}.idx"
        try:
            return read_index(path)
        except InputError:
            if not self.rebuild_index:
                raise
        logger.warning("%s made anew: %d records", path, rebuild_index(self._records, path))
        return read_index(path)

    @cached_property
    def _records(self) -> RecordFile:
        return RecordFile(self.root / f"{self.name}.rec")

    def _record(self, key: int, head_only: bool = False) -> tuple[np.ndarray, bytes]:
        keys, offsets = self._index
        place = int(np.searchsorted(keys, key))
        if place == len(keys) or keys[place] != key:
            raise InputError(f"{self.root}/{self.name}.idx without the key {key}", "every key", "fetch the index again")
        offset = int(offsets[place])
        payload = self._records.payload(offset, _IMAGE.size + 4 * 2 if head_only else None)
        return unpack_image(payload, f"{self._records.path} at offset {offset:,}")

    def _label_of(self, key: int) -> int:
        label = float(self._record(key, head_only=True)[0][0])
        if not (label >= 0 and label == int(label)):
            raise InputError(f"{self._records.path}: record {key} of identity {label:g}", "a whole number", DAMAGED)
        return int(label)

    def _images(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Keys and identity numbers of all images, (N,) int64 each, and the number of identities in the file."""
        listed = self._index[0]
        bounds, image = self._record(0) if listed[0] == 0 else (np.zeros(0), b"")
        if len(bounds) < 2 or image:  # no header record: every record is an image
            numbers = self._labels_of(listed)
            return listed, numbers, len(np.unique(numbers))
        end = int(listed[-1]) + 1
        first, last = self._range(bounds, 0, end)
        if last > EXACT:
            last, near = end, range(max(first - SLACK, 1), min(first + SLACK + 1, end))
            first = next((key for key in near if self._is_identity(key)), first)
        ranges = [self._range(self._record(key)[0], key, first) for key in range(first, last)]
        ranges_I2 = np.array(ranges, np.int64).reshape(-1, 2)

        exact_I = ranges_I2[:, 1] <= EXACT
        sizes_I = np.where(exact_I, ranges_I2[:, 1] - ranges_I2[:, 0], 0)
        if sizes_I.sum() > len(listed):
            got = f"{self._records.path} with ranges of {sizes_I.sum():,} images"
            raise InputError(got, f"at most the {len(listed):,} of the index", "fetch both again")
        numbers = np.repeat(self._numbers(ranges_I2, exact_I), sizes_I)
        keys = runs(ranges_I2[:, 0], sizes_I)
        if not exact_I.all():
            after = ranges_I2[exact_I, 1].max(initial=1)
            rest = listed[(listed >= after) & (listed < first)]
            keys, numbers = np.concatenate([keys, rest]), np.concatenate([numbers, self._labels_of(rest)])
        return keys, numbers, len(ranges_I2)

    def _is_identity(self, key: int) -> bool:
        labels, image = self._record(key)
        return len(labels) == 2 and not image

    def _labels_of(self, keys: np.ndarray) -> np.ndarray:
        return np.array([self._label_of(int(key)) for key in keys], np.int64)

    def _range(self, labels: np.ndarray, key: int, limit: int) -> tuple[int, int]:
        bounds = [float(label) for label in labels[:2]]
        slack = SLACK if limit > EXACT else 0
        # Compared as floats first: NaN and infinity have no integer value.
        if len(bounds) < 2 or not (0 <= bounds[0] <= bounds[1] <= limit + slack):
            got = f"{self._records.path}: record {key} with the range {bounds}"
            raise InputError(got, f"two ascending keys up to {limit}", DAMAGED)
        return int(bounds[0]), int(bounds[1])

    def _numbers(self, ranges_I2: np.ndarray, exact_I: np.ndarray) -> np.ndarray:
        # The releases number identities in the order of their records. Three records tell whether this file does;
        # all would be one seek for each of 360,000.
        filled = np.flatnonzero((ranges_I2[:, 1] > ranges_I2[:, 0]) & exact_I)
        numbers = np.arange(len(ranges_I2))
        some = filled[[0, len(filled) // 2, -1]] if len(filled) else filled
        if any(self._label_of(int(ranges_I2[i, 0])) != i for i in some):
            numbers[filled] = self._labels_of(ranges_I2[filled, 0])
        return numbers

    def _check_property(self, n_identities: int) -> None:
        path = self.root / "property"
        if not path.is_file():
            return
        try:
            stated = int(path.read_text(encoding="utf-8").split(",")[0])
        except ValueError:
            raise InputError(f"{path}, unreadable", "identities,height,width", "fetch the file again") from None
        if stated != n_identities:
            got = f"{path} with {stated} identities"
            raise InputError(got, f"{n_identities}, as in the records", "fetch both again")
