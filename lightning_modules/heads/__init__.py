# SPDX-License-Identifier: MIT
"""Heads: the scores of the classes of a cluster."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
