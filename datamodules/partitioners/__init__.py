# SPDX-License-Identifier: MIT
"""Partitioners: which identities share a cluster."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
