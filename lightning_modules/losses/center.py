# SPDX-License-Identifier: MIT
"""Center loss added to softmax, the class rows as centres (Wen et al., ECCV 2016; shared rows: IJCV 2019)."""

from torch import Tensor

from lightning_modules.losses.normface import NormFace


class CenterSoftmax(NormFace):
    """Softmax over scaled cosines + weight / 2 |x - w_y|^2, which for unit vectors is weight (1 - cos(theta_y)).

    L = L_S + lambda L_C with L_C = 1/2 |x - c_y|^2 (Wen, Zhang, Li & Qiao, "A Discriminative Feature Learning Approach
    for Deep Face Recognition", eq. 2 and 5). There the centres c_y are running means beside the rows; the term moves
    the embedding network. Embeddings are frozen here, so the centres are the rows, c_y = w_y, as in the authors' "A
    Comprehensive Study on Center Loss" (IJCV 127, 2019). Summed over the n samples of a class the term is
    n weight (1 - w_y . mean_y): it draws each row towards its class mean. weight -> infinity is the nearest-class-mean
    classifier, weight = 0 is NormFace.

    Defaults: the paper's lambda, 0.003, belongs to features of free length; a length r multiplies the term by r^2, so
    that 1.0, our default, is what 0.003 is at r = 18. scale is NormFace's.

    Args:
        weight: lambda, at least 0.
    """

    def __init__(self, scale: float = 30.0, weight: float = 1.0):
        super().__init__(scale)
        if not weight >= 0:
            raise ValueError(f"got weight {weight}; expected weight >= 0")
        self.weight = weight

    def penalty(self, cosine_B: Tensor) -> Tensor:
        return self.weight * (1 - cosine_B)
