# SPDX-License-Identifier: MIT
"""Decisions: who the probe is, given its clusters."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
