# SPDX-License-Identifier: MIT
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel

from callbacks.reporting import ReportEpoch


class Model(BoringModel):
    def training_step(self, batch, batch_index):
        self.log("train/loss", 2.0, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_index)


def test_every_epoch_is_reported_once_with_the_number_done():
    told = []
    trainer = pl.Trainer(
        max_epochs=3, limit_train_batches=2, limit_val_batches=0, accelerator="cpu", logger=False,
        callbacks=[ReportEpoch(lambda *values: told.append(values))], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Model())
    assert [(done, of) for done, of, _ in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1][2]["train/loss"] == 2.0
