# SPDX-License-Identifier: MIT
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel

from callbacks.checkpoints import EpochCheckpoints, SafetensorsIO, epoch_files
from callbacks.history import History


class Model(BoringModel):
    """Logs the number of the epoch."""

    def training_step(self, batch, batch_index):
        self.log("train/loss", 10.0 + self.current_epoch, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_index)

    def validation_step(self, batch, batch_index):
        self.log("val/loss", 20.0 + self.current_epoch)


def test_values_of_one_epoch_become_one_record_in_order_of_epochs():
    history = History()
    history.log_metrics({"epoch": 1, "a": 2}, step=4)
    history.log_metrics({"epoch": 0, "a": 1}, step=2)
    history.log_metrics({"epoch": 1, "b": 3}, step=4)
    assert history.records == [{"epoch": 0, "a": 1.0}, {"epoch": 1, "a": 2.0, "b": 3.0}]


def test_what_belongs_to_no_epoch_is_left_out():
    history = History()
    history.log_metrics({"a": 1}, step=0)
    history.log_hyperparams({"a": 1})
    assert history.records == []


def test_records_survive_a_checkpoint_without_validation_values_of_an_earlier_epoch(tmp_path):
    def fit(epochs, resume=None):
        history, model = History(), Model()
        trainer = pl.Trainer(
            max_epochs=epochs, check_val_every_n_epoch=2, limit_train_batches=2, limit_val_batches=1, accelerator="cpu",
            logger=history, callbacks=[history, EpochCheckpoints(tmp_path / "job")], plugins=[SafetensorsIO("key")],
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=10**9,
        )  # fmt: skip
        trainer.fit(model, ckpt_path=resume)
        return history.records

    expected = [
        {"epoch": epoch, "train/loss": 10.0 + epoch, **({"val/loss": 20.0 + epoch} if epoch % 2 else {})}
        for epoch in range(5)
    ]
    assert fit(3) == expected[:3]
    file = epoch_files(tmp_path / "job")[2]
    assert SafetensorsIO("key").load_checkpoint(file)["history"] == expected[:3]
    assert fit(5, file) == expected
    assert SafetensorsIO("key").load_checkpoint(epoch_files(tmp_path / "job")[4])["history"] == expected
