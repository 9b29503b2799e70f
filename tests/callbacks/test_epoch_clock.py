# SPDX-License-Identifier: MIT
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader, TensorDataset

from callbacks import epoch_clock
from callbacks.epoch_clock import EpochClock, peak_memory_mb, reset_peak_memory
from callbacks.history import History


class Model(BoringModel):
    """Batches of inputs and targets; validation takes ten fake seconds, a training step one."""

    def __init__(self, now):
        super().__init__()
        self.now = now

    def training_step(self, batch, batch_index):
        self.now[0] += 1
        return self.layer(batch[0]).sum()

    def validation_step(self, batch, batch_index):
        self.now[0] += 10

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(11, 32), torch.zeros(11)), batch_size=4)

    val_dataloader = train_dataloader


@pytest.fixture
def records(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(epoch_clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    history = History()
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=history, callbacks=[EpochClock()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=10**9,
    )  # fmt: skip
    trainer.fit(Model(now))
    return history.records


def test_an_epoch_lasts_as_long_as_its_training_steps(records):
    assert [record["time/epoch_seconds"] for record in records] == [3, 3]
    assert [record["time/samples_per_second"] for record in records] == pytest.approx([11 / 3, 11 / 3])
    assert all(record["memory/peak_mb"] > 0 for record in records)


def test_peak_memory_grows_by_what_is_held_and_can_be_reset():
    block = torch.ones(64 << 18)  # 64 MiB
    high = peak_memory_mb()
    del block
    reset_peak_memory()
    if peak_memory_mb() == high:
        pytest.skip("this kernel does not let the high-water mark be reset")
    low = peak_memory_mb()
    block = torch.ones(64 << 18)
    assert 60 < peak_memory_mb() - low < 80
    del block
    assert peak_memory_mb() - low > 60
