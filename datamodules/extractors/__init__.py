# SPDX-License-Identifier: MIT
"""Extractors: networks that turn a picture into an embedding."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
