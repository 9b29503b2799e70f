# SPDX-License-Identifier: MIT
"""Baselines: other systems as rows of the same table."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
