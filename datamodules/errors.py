# SPDX-License-Identifier: MIT
"""Errors that a user can mend: one line with got, expected and cure."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(ValueError):
    """The user's input cannot be used. Commands print it as one line on standard error and exit with code 2.

    Args:
        got: the fault, with its numbers ("labels.npy has 990 rows").
        expected: the right input ("1000, one per embedding").
        cure: how to mend it ("write the set again with EmbeddingSet.write").

    >>> print(InputError("m = 5", "at most 3 identities' worth", "lower n_subnets"))
    got m = 5; expected at most 3 identities' worth; cure: lower n_subnets
    """

    def __init__(self, got: str, expected: str, cure: str):
        super().__init__(f"got {got}; expected {expected}; cure: {cure}")
        self.got, self.expected, self.cure = got, expected, cure

    def __reduce__(self):
        # The default passes the message alone, which fails where launchers send exceptions between processes.
        return type(self), (self.got, self.expected, self.cure)


class DiskError(InputError):
    """The disk is full, read-only or broken. A loop over many parts stops at it: the next part meets the same disk."""


@contextmanager
def needed_package(name: str, expected: str, cure: str) -> Iterator[None]:
    """Refuses a missing optional package, imported inside, with an `InputError`."""
    try:
        yield
    except ImportError:
        raise InputError(f"no package {name}", expected, cure) from None


def one_line(error: BaseException, most: int = 160) -> str:
    """The text of an error without line breaks, or its type if it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def nearest(name: str, known: Iterable[str], cure: str) -> str:
    """The cure for a misspelt name, with the known name that is most like it, if any is.

    >>> nearest("cosfase", ["arcface", "cosface"], "correct the name")
    'correct the name; did you mean cosface?'
    """
    found = get_close_matches(name, list(known), 1)
    return f"{cure}; did you mean {found[0]}?" if found else cure
