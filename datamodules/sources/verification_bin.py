# SPDX-License-Identifier: MIT
"""InsightFace's verification files: a pickle of two lists, the pictures (bytes) and whether each pair is one person.

A pickle is a program. This one is never run: its instructions are read one by one, and only those that make lists,
tuples, bytes and booleans are followed. Axes: P pairs of pictures, D embedding dimension.
"""

import os
import pickletools
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import InputError, one_line
from datamodules.files import sha256
from datamodules.images import RejectedImage
from datamodules.sources.base import NAMES, Listing, Source
from datamodules.sources.pairs import VerificationPairs

MAX_BYTES = 1 << 31
FOLDS = 10  # without shuffling, as InsightFace divides them; the files are in the order of folds
_EXPECTED = "a pickle of a list of pictures and a list of booleans, one for every two pictures"
_ENCODE = "_codecs encode"  # Python 3 writes bytes for protocol 2 as text with this function


def read_bin(path: Path | str) -> tuple[list[bytes], np.ndarray]:
    """The encoded pictures, 2 P, and whether pictures 2 p and 2 p + 1 show one person, (P,) bool.

    Raises:
        InputError: no such file, too large, truncated, or a pickle of anything else.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise InputError(f"no file {path} of at most {MAX_BYTES:,} bytes", _EXPECTED, "check source.path")
    try:
        found = _value(path.read_bytes())
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        cure = "fetch the file again, or write it anew with bytes"
        raise InputError(f"{path}, a pickle with {one_line(error)}", _EXPECTED, cure) from None
    pair: Any = found if isinstance(found, (tuple, list)) and len(found) == 2 else (None, None)
    pictures, same = pair
    right = type(pictures) is type(same) is list and len(pictures) == 2 * len(same) > 0
    if not right or any(type(one) is not bytes for one in pictures) or any(type(one) is not bool for one in same):
        raise InputError(f"{path}, a pickle of something else", _EXPECTED, "fetch the file again")
    return pictures, np.array(same)


def _value(content: bytes) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    room = len(content)  # what texts may become bytes, or a few kB could ask for the same text a million times
    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        elif name in ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            stack.append(argument)
        elif name in ("SHORT_BINSTRING", "BINSTRING"):  # bytes of Python 2, which pickletools reads as latin-1
            stack.append(argument.encode("latin-1"))
        elif name in ("NEWTRUE", "NEWFALSE"):
            stack.append(name == "NEWTRUE")
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("APPEND", "APPENDS", "TUPLE2"):
            start = marks.pop() if name == "APPENDS" else len(stack) - (1 if name == "APPEND" else 2)
            items = stack[start:]
            del stack[start:]
            if name == "TUPLE2":
                stack.append(tuple(items))
            else:
                stack[-1].extend(items)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL" and argument == _ENCODE:
            stack.append(_ENCODE)
        elif name == "REDUCE" and type(stack[-2]) is str and stack[-2] == _ENCODE:
            text, encoding = stack.pop()
            if encoding != "latin1" or (room := room - len(text)) < 0:
                raise ValueError("another encoding than latin1, or more bytes than the file has")
            stack[-1] = text.encode("latin-1")
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"{name} {argument[:80] if isinstance(argument, str) else ''}")
    raise ValueError("no end")


class VerificationBin(Source):
    """The aligned pictures of lfw.bin, cfp_fp.bin, agedb_30.bin, ..., each an identity of its own, and their pairs.

    Args:
        path: the file.
        flip: whether a picture's embedding is the sum with that of its mirror image, as InsightFace reports it.
    """

    aligned = True

    def __init__(self, path: Path | str, flip: bool = False):
        super().__init__(top_up_to=0)
        self.path, self.flip = Path(os.path.expanduser(path)), flip

    def describe(self) -> str:
        return f"verification file {self.path.name}"

    def scan(self) -> Listing:
        numbers = [f"{number:07d}" for number in range(len(self._content[0]))]
        digest = sha256(self.path)[:16]  # tells a file from another in its place
        names = np.array([f"{digest}/{number}" for number in numbers], NAMES)
        return Listing(names, np.arange(len(names), dtype=np.int32), tuple(numbers))

    def copies(self, usable: Listing) -> Listing:
        if not self.flip:
            return super().copies(usable)
        return Listing(np.strings.add(usable.names, np.array("#flip", NAMES)), usable.labels, usable.identities)

    def read(self, name: str) -> bytes:
        number = name.rpartition("/")[2]
        if not number.isdecimal() or int(number) >= len(self._content[0]):
            raise RejectedImage("no such picture")
        return self._content[0][int(number)]

    def pairs(self) -> VerificationPairs:
        """P pairs of rows of `combine`, in ten folds, one after another."""
        same = self._content[1]
        fold = np.concatenate([np.full(len(part), f) for f, part in enumerate(np.array_split(same, FOLDS))])
        left = 2 * np.arange(len(same))
        return VerificationPairs(left, left + 1, same, fold, FOLDS)

    def combine(self, embeddings: np.ndarray) -> np.ndarray:
        """One float32 row per picture, (2 P, D), of the rows of an extraction, (2 P, D) or with mirror images (4 P, D).

        Raises:
            InputError: pictures without an embedding.
        """
        each = 1 + self.flip
        if len(embeddings) != each * len(self._content[0]):
            got = f"{self.path}: {len(embeddings) // each} of {len(self._content[0])} pictures embedded"
            raise InputError(got, "all", "rejected.csv in the folder of the embeddings says why; fetch the file again")
        return embeddings.reshape(-1, each, embeddings.shape[1]).sum(axis=1, dtype=np.float32)

    @cached_property
    def _content(self) -> tuple[list[bytes], np.ndarray]:
        return read_bin(self.path)
