# SPDX-License-Identifier: MIT
"""NormFace: softmax over scaled cosines without a margin (Wang et al., "NormFace", ACM MM 2017, eq. 4)."""

from lightning_modules.losses.cosface import CosFace


class NormFace(CosFace):
    """Target logit s cos(theta). The paper learns s; opensphere's CoCo loss has a fixed 30 too."""

    def __init__(self, scale: float = 30.0):
        super().__init__(scale, margin=0.0)
