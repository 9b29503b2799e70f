# SPDX-License-Identifier: MIT
"""From pictures to embeddings on disk."""

from datamodules.lazy import public_classes

__getattr__, __dir__ = public_classes(__name__)
