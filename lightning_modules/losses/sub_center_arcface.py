# SPDX-License-Identifier: MIT
"""Sub-center ArcFace: several rows per class, the closest counts (Deng et al., ECCV 2020, eq. 4)."""

from lightning_modules.losses.arcface import ArcFace


class SubCenterArcFace(ArcFace):
    """ArcFace on the largest of `sub_centers` cosines of each class, for the true class and for all others.

    cos(theta_j) = max over k of x . w_jk ("Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web
    Faces"). A class that is not compact, or has label noise, may spread over its rows; only the row closest to a sample
    receives its gradient. With one sub-centre it is ArcFace.

    The head keeps R = `sub_centers` rows per class and passes this loss cosines after the maximum. R rows cost R times
    the memory and the products of one, and the fused path is not taken. The paper's second round (drop the samples that
    are more than 75 degrees from the dominant row, train again with one row) is not part of the loss.

    Args:
        margin: m in radians, in [0, pi/2).
        sub_centers: R, rows per class, at least 1. All defaults are the paper's.
    """

    def __init__(self, scale: float = 64.0, margin: float = 0.5, sub_centers: int = 3):
        super().__init__(scale, margin)
        if sub_centers < 1:
            raise ValueError(f"got sub_centers {sub_centers}; expected at least 1")
        self.rows_per_class = sub_centers
