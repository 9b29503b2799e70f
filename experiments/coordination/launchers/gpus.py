# SPDX-License-Identifier: MIT
"""Which GPUs this process may use."""

import os

import torch


def visible_gpus() -> list[str]:
    """Names of the visible GPUs as CUDA_VISIBLE_DEVICES takes them; empty without any."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return [part for part in named.split(",") if part]
    return [str(i) for i in range(torch.cuda.device_count())]
