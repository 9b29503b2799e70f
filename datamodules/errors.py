# SPDX-License-Identifier: MIT
"""The exceptions for what a user can mend: a single line with got, expected and cure."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The commands print it as one line on standard error and leave with exit code 2.

    Args:
        got: what was found, with its numbers ("labels.npy has 990 rows").
        expected: what would have been right ("1000, one per embedding").
        cure: what to do about it ("write the set again with EmbeddingSet.write").

    >>> print(InputError("m = 5", "at most 3 identities' worth", "lower n_subnets"))
    got m = 5; expected at most 3 identities' worth; cure: lower n_subnets
    """

    def __init__(self, got: str, expected: str, cure: str):
        super().__init__(f"got {got}; expected {expected}; cure: {cure}")
        self.got, self.expected, self.cure = got, expected, cure

    def __reduce__(self):
        # Three arguments, one message: the default would rebuild it from the message alone, and a launcher
        # that sends exceptions between processes would fail on the exception itself.
        return type(self), (self.got, self.expected, self.cure)


class DiskError(InputError):
    """The disk does not take what is to be written, or may not be used: full, read-only, or broken.

    Whoever works through many parts stops at it, since the next part would meet the same disk.
    """


@contextmanager
def needed_package(name: str, expected: str, cure: str) -> Iterator[None]:
    """Imports of an optional package stand inside; where it is missing, they are refused with an `InputError`."""
    try:
        yield
    except ImportError:
        raise InputError(f"no package {name}", expected, cure) from None


def nearest(name: str, known: Iterable[str], cure: str) -> str:
    """The cure for a misspelt name: the known name most like it, where one is.

    Args:
        cure: what else to do, and all to say where no known name is like it.

    >>> nearest("cosfase", ["arcface", "cosface"], "correct the name")
    'correct the name; did you mean cosface?'
    """
    found = get_close_matches(name, list(known), 1)
    return f"{cure}; did you mean {found[0]}?" if found else cure
