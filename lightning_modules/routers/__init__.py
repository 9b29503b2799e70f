# SPDX-License-Identifier: MIT
"""Routers: which clusters a probe belongs to."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
