# SPDX-License-Identifier: MIT
"""Sources: where pictures and tables come from."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
