# SPDX-License-Identifier: MIT
"""From batches to a decision."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
