# SPDX-License-Identifier: MIT
"""A GPU gives the numbers of the CPU. Skipped without one; no test here was ever run on a GPU."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from datamodules.cluster_datamodule import ClusterDataModule
from lightning_modules.fused import fused_margin_softmax
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.cosface import CosFace
from lightning_modules.losses.softmax import Softmax
from tests.lightning_modules.small_fits import fit, same_weights

GPU = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")


@pytest.fixture
def losses(call, set_folder, tmp_path):
    """`losses(name, *arguments)`: the training loss of every sub-network and epoch of a small comparison."""

    def run(name, *arguments):
        ended = call(
            "compare", "data=embedding_set", f"data.path={set_folder}", "n_subnets=2", "seeds=1", "logger=none",
            "scenarios=[clustered_nearest]", "trainer.max_epochs=2", "trainer.batch_size=16", "trainer.threads=1",
            "trainer.matmul=highest", f"runs_dir={tmp_path}", f"name={name}", *arguments,
        )  # fmt: skip
        assert ended.code == 0, ended.err
        history = pd.read_csv(tmp_path / name / "details/history.csv")
        assert len(history) == 4, "two sub-networks of two epochs"
        return history.sort_values(["cluster", "epoch"])["train_loss"].to_numpy()

    return run


@pytest.mark.parametrize("max_logits_bytes", [1 << 30, 4 * 24 * 3], ids=["whole", "in chunks"])
@pytest.mark.parametrize("loss", [ArcFace(), CosFace(), Softmax()], ids=lambda loss: type(loss).__name__)
def test_fused_loss_and_gradients_are_those_of_the_cpu(loss, max_logits_bytes):
    generator, found = torch.Generator().manual_seed(0), {}
    weight_CD, target_B = torch.randn(10, 16, generator=generator), torch.arange(24) % 10
    embedding_BD = F.normalize(torch.randn(24, 16, generator=generator) + weight_CD[target_B])
    for device in ("cpu", GPU):
        x, w = (value.to(device, copy=True).requires_grad_() for value in (embedding_BD, weight_CD))
        loss_B = fused_margin_softmax(x, w, target_B.to(device), loss, "highest", max_logits_bytes)
        loss_B.mean().backward()
        found[device] = [value.detach().cpu() for value in (loss_B, x.grad, w.grad)]
    for on_gpu, on_cpu in zip(found[GPU], found["cpu"], strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-5)


def test_bundled_steps_are_single_steps(toy_split):
    trained = []
    for at_once in (1, 4):
        members_C = np.array([0, 2, 3, 7, 8], np.int32)
        data = ClusterDataModule.of_cluster(*toy_split, members_C, batch_size=8, seed=1)
        network, _ = fit(data, at_once=at_once, accelerator=GPU, devices=1)
        assert network.trainer.strategy.root_device.type == GPU
        trained.append(network)
    same_weights(trained[1], trained[0])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["callbacks=[ema]"],
        ["trainer.gradient_clip_val=0.5"],
        ["head=low_rank", "head.rank=4"],
        ["head=projected", "head.hidden=4"],
    ],
    ids=" ".join,
)
def test_losses_of_a_comparison_are_those_of_the_cpu(losses, arguments):
    on_cpu = losses("cpu", "trainer.accelerator=cpu", *arguments)
    np.testing.assert_allclose(losses("gpu", f"trainer.accelerator={GPU}", *arguments), on_cpu, rtol=1e-3)


def test_two_workers_that_share_a_gpu_train_what_one_process_trains(losses):
    alone = losses("alone", f"trainer.accelerator={GPU}")
    shared = ("launcher=processes", "launcher.per_gpu=2", "launcher.threads=1")
    np.testing.assert_allclose(losses("shared", f"trainer.accelerator={GPU}", *shared), alone, rtol=1e-3)


@two_gpus
@pytest.mark.parametrize("strategy", ["ddp", "model_parallel"])
def test_two_gpus_train_what_one_trains(losses, strategy):
    one = losses("one", f"trainer.accelerator={GPU}")
    both = ("launcher=processes", "launcher.threads=1", "trainer.devices=2", f"trainer.strategy={strategy}")
    np.testing.assert_allclose(losses("two", f"trainer.accelerator={GPU}", *both), one, rtol=1e-3)
