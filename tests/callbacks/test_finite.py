# SPDX-License-Identifier: MIT
from types import SimpleNamespace

import pytest
import torch

from callbacks.finite import DivergenceError, StopOnNonFinite


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_an_epoch_whose_loss_is_no_number_ends_the_fit(loss):
    trainer = SimpleNamespace(callback_metrics={"train/loss": torch.tensor(loss)}, current_epoch=3)
    with pytest.raises(DivergenceError, match="epoch 3"):
        StopOnNonFinite().on_train_epoch_end(trainer, None)


@pytest.mark.parametrize("metrics", [{}, {"train/loss": torch.tensor(1e30)}, {"val/loss": torch.tensor(float("nan"))}])
def test_any_other_epoch_goes_on(metrics):
    trainer = SimpleNamespace(callback_metrics=metrics, current_epoch=0)
    assert StopOnNonFinite().on_train_epoch_end(trainer, None) is None
