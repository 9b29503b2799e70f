# SPDX-License-Identifier: MIT
"""Metrics: columns of the table of results."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
