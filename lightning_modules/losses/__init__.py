# SPDX-License-Identifier: MIT
"""Losses of classification."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
