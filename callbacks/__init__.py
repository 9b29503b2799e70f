# SPDX-License-Identifier: MIT
"""Callbacks: one effect per file."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
