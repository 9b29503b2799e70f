# SPDX-License-Identifier: MIT
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from callbacks.keep_best import KeepBest


class Counting(pl.LightningModule):
    """Its weight is the number of finished epochs; its validation values are given."""

    def __init__(self, values):
        super().__init__()
        self.weight, self.values = nn.Parameter(torch.zeros(())), values
        self.automatic_optimization = False

    def training_step(self, batch, index):
        with torch.no_grad():
            self.weight.add_(1)

    def validation_step(self, batch, index):
        self.log("val/loss", self.values[self.current_epoch])

    def configure_optimizers(self):
        return None


def fit(values, **arguments):
    module, best = Counting(values), KeepBest(**arguments)
    loader = torch.utils.data.DataLoader(torch.zeros(1, 1))
    trainer = pl.Trainer(
        max_epochs=len(values), accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[best], num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    return float(module.weight), best.best_epoch, trainer.current_epoch


@pytest.mark.parametrize(
    "values, patience, best, ran",
    [
        ([3, 2, 1], 5, 2, 3),
        ([3, 1, 2, 2, 0], 9, 4, 5),
        ([3, 1, 2, 2, 0], 2, 1, 4),
        ([3, 1, 1, 1, 1], 2, 1, 4),
        ([1, 2, 3], 1, 0, 2),
        ([float("nan"), 2, 3], 5, 1, 3),
    ],
)
def test_the_fit_ends_with_the_weights_of_the_best_epoch_after_patience(values, patience, best, ran):
    assert fit([float(value) for value in values], patience=patience) == (best + 1, best, ran)


def test_another_value_may_be_watched():
    with pytest.raises(KeyError):
        fit([1.0], monitor="val/other")
