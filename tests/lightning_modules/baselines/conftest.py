# SPDX-License-Identifier: MIT
"""A task of 30 people, 12-d, whose networks are trained by a plain Adam loop instead of a Trainer."""

import numpy as np
import pytest
import torch

from datamodules.class_means import class_means, normalise_rows
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from lightning_modules.baselines.base import BaselineTask
from lightning_modules.initialisers import PrototypeInit
from lightning_modules.losses.normface import NormFace


def make_task(k=30, dim=12, per_class=8, noise=0.5, seed=0, epochs=3, **changes):
    random = np.random.default_rng(0)
    centres = normalise_rows(random.standard_normal((k, dim)))
    labels = np.repeat(np.arange(k, dtype=np.int32), 2 * per_class)
    rows = normalise_rows(centres[labels] + noise * random.standard_normal((len(labels), dim)) / np.sqrt(dim))
    odd = np.arange(len(labels)) % 2 == 1
    train, val = (Split(np.flatnonzero(side), labels[side]) for side in (~odd, odd))
    seen = TrainingSamples(rows, train)

    def train_network(module, targets_K=None, stream=0):
        x, y = (torch.from_numpy(part) for part in seen.drawn(10**9, 0))
        y = y.long() if targets_K is None else torch.from_numpy(targets_K)[y.long()]
        optimizer = module.configure_optimizers()
        module.log_dict = lambda *_, **__: None
        order = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for index in torch.randperm(len(x), generator=order).split(16):
                optimizer.zero_grad()
                loss = module.head.loss(x[index], y[index], module.loss).mean()
                loss.backward()
                optimizer.step()

    facts = {
        "train": seen, "val": TrainingSamples(rows, val), "class_means_KD": class_means(rows, train, k),
        "n_subnets": 3, "seed": seed, "loss": NormFace(16.0), "init": PrototypeInit(),
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=1e-2), "train_network": train_network,
    }  # fmt: skip
    return BaselineTask(**{**facts, **changes})


@pytest.fixture
def task():
    """`task(k=30, dim=12, ...)`: a `BaselineTask`; further arguments replace its fields."""
    return make_task
