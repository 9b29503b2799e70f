# SPDX-License-Identifier: MIT
"""How far two correct float32 results may lie apart."""


def rounding(dim: int) -> float:
    """Largest difference of two float32 inner products of the same two unit vectors, summed in any two orders.

    A sum of `dim` products errs by at most dim u |x|.|y| <= dim u with u = 2^-24 (Higham, Accuracy and Stability of
    Numerical Algorithms, 2002, section 3.1), so two of them differ by at most 2 dim u.
    """
    return 2 * dim * 2.0**-24
