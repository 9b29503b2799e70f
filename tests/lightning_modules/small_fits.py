# SPDX-License-Identifier: MIT
"""Fits of a second on five classes, by Lightning and by a plain loop over the same batches.

Axes: B batch, D embedding dimension.
"""

from functools import partial

import pytorch_lightning as pl
import torch

from callbacks.history import History
from lightning_modules.bundled_steps import bundle
from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.subnetwork import SubNetwork

ADAM = partial(torch.optim.Adam, lr=0.01, betas=(0.9, 0.99))


def head_of(seed=0, kind=LinearHead, **more):
    return kind(torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)), **more)


def fit(
    data, loss=None, optimizer=ADAM, epochs=3, head=None, scheduler=None, at_once=1, callbacks=(), resume=None, **more
):
    """The trained module and its history; `at_once` steps per call of Lightning, `resume`: a checkpoint."""
    history, network = History(), SubNetwork(head or head_of(), loss or ArcFace(16.0, 0.3), optimizer, scheduler)
    if at_once > 1:
        bundle(network, data, at_once)
    trainer = pl.Trainer(
        **{
            "max_epochs": epochs, "accelerator": "cpu", "enable_checkpointing": False, "enable_progress_bar": False,
            "enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 10**9,
            "use_distributed_sampler": False, **more,
        },
        logger=history,
        callbacks=[*callbacks, history],
    )  # fmt: skip
    trainer.fit(network, datamodule=data, ckpt_path=resume)
    return network, history.records


def plain_loop(data, head, loss, optimizer=ADAM, epochs=3):
    """Trains a head and the parameters of its loss on the plain formulation, `loss(head(x), y).mean()`."""
    made = optimizer(head.parameter_groups() + [{"params": list(loss.parameters())}])
    batches = data.train_dataloader()
    for epoch in range(epochs):
        batches.epoch = lambda epoch=epoch: epoch
        loss.epoch_starts(epoch, epochs)
        for unit_BD, target_B, *_ in batches:
            made.zero_grad()
            loss(head(unit_BD), target_B).mean().backward()
            made.step()


def same_weights(found, expected, rtol=1e-4, atol=1e-5):
    """Asserts that two modules have the same parameters, and that there are some."""
    expected = dict(expected.named_parameters())
    assert expected and dict(found.named_parameters()).keys() == expected.keys()
    for name, value in found.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=rtol, atol=atol)
