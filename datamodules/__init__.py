# SPDX-License-Identifier: MIT
"""From images to the batches of one cluster."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
