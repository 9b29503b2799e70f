# SPDX-License-Identifier: MIT
"""Arguments of Lightning's Trainer, its callbacks and more epochs, as a user of the commands gives them."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from scipy.io import savemat
from torch import nn

from callbacks.epoch_clock import EpochClock
from datamodules.embedding_set import EmbeddingSet
from experiments.training.build import build
from experiments.training.cluster_data import JobData
from experiments.training.train import train
from lightning_modules.subnetwork import SubNetwork

SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.05}
MEASURED = ["epoch_seconds", "samples_per_second", "peak_mb", "seconds_since_start"]


@pytest.fixture(scope="module")
def compare(call, quick, tmp_path_factory):
    """`compare("key=value", name="a")`: how a comparison of one scenario ended, and its run folder."""
    runs = tmp_path_factory.mktemp("runs")

    def run(*arguments, name="run"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
            words = (f"runs_dir={runs}", f"name={name}", "seeds=1", "scenarios=[clustered_nearest]", *arguments)
            return call("compare", *quick, *words), runs / name

    return run


@pytest.fixture(scope="module")
def plain(compare):
    """The run folder of two sub-networks and two epochs, nothing added; not to be changed."""
    ended, folder = compare(name="plain")
    assert ended.code == 0, ended.err
    return folder


def weights(folder):
    files = sorted(folder.glob("subnetworks/*/?????.safetensors"))
    return [safetensors.torch.load_file(file)["head.weight_CD"] for file in files]


def history(folder):
    table = pd.read_csv(folder / "details/history.csv")
    return table.drop(columns=[name for name in table if name.rpartition("/")[2] in MEASURED])


# More epochs ----------------------------------------------------------------------------------------------------------


def test_a_finished_run_goes_on_to_what_more_epochs_in_one_go_give(compare, monkeypatch):
    assert compare(name="grown")[0].code == 0
    begun, start = [], EpochClock.on_train_epoch_start
    monkeypatch.setattr(
        EpochClock, "on_train_epoch_start", lambda self, t, m: (begun.append(t.current_epoch), start(self, t, m))
    )
    ended, grown = compare("trainer.max_epochs=4", name="grown")
    assert ended.code == 0, ended.err
    assert begun == [2, 3, 2, 3]
    ended, whole = compare("trainer.max_epochs=4", name="whole")
    assert begun[4:] == 2 * [0, 1, 2, 3]
    (key,) = (folder.name for folder in whole.glob("subnetworks/*"))
    for cluster in range(2):
        ours, theirs = (
            safetensors.torch.load_file(run / f"subnetworks/{key}/0000{cluster}.safetensors") for run in (grown, whole)
        )
        assert torch.equal(ours["head.weight_CD"], theirs["head.weight_CD"])
    pd.testing.assert_frame_equal(history(grown), history(whole))
    assert history(grown).groupby("cluster")["epoch"].apply(list).tolist() == 2 * [[0, 1, 2, 3]]
    assert pd.read_csv(grown / "results.csv").epochs.tolist() == [4]


@pytest.mark.parametrize("choice", ["scheduler=linear", "callbacks=[ema]"])
def test_a_run_whose_weights_depend_on_the_number_of_epochs_is_refused_more(compare, choice):
    name = choice.partition("=")[0]
    assert compare(choice, name=name)[0].code == 0
    ended, _ = compare(choice, "trainer.max_epochs=4", name=name)
    ended.assert_refused("trainer.max_epochs = 4", "expected 2", "scheduler=constant")


# Arguments of the Trainer ---------------------------------------------------------------------------------------------


def plain_loop(job, epochs, clip=None, accumulate=1, limit=None, steps=None):
    """The weights of a job by PyTorch alone."""
    module, data = build(job, JobData().open(job))
    rows_CD, batches = nn.Parameter(module.head.weight_CD.detach().clone()), data.train_dataloader()
    sgd, taken = torch.optim.SGD([rows_CD], lr=0.05), 0
    for epoch in range(epochs):
        batches.epoch = lambda epoch=epoch: epoch
        served = list(batches)[:limit]
        for index, batch in enumerate(served):
            if steps is not None and taken == steps:
                return rows_CD.detach()
            cosine_BC = batch.unit_BD @ nn.functional.normalize(rows_CD).T
            (module.loss(cosine_BC, batch.target_B).mean() / accumulate).backward()
            if (index + 1) % accumulate == 0 or index + 1 == len(served):
                if clip:
                    nn.utils.clip_grad_norm_([rows_CD], clip)
                sgd.step()
                sgd.zero_grad()
                taken += 1
    return rows_CD.detach()


@pytest.mark.parametrize(
    ("settings", "loop"),
    [
        ({"gradient_clip_val": 0.5}, {"clip": 0.5}),
        ({"accumulate_grad_batches": 2}, {"accumulate": 2}),
        ({"limit_train_batches": 3}, {"limit": 3}),
        ({"limit_train_batches": 3, "steps_per_call": 2}, {"limit": 3}),
        ({"limit_train_batches": 1, "val_check_interval": 1}, {"limit": 1}),
        ({"max_steps": 7}, {"steps": 7}),
    ],
    ids=str,
)
def test_arguments_do_what_they_do_in_a_plain_loop(make_jobs, settings, loop):
    (job, _) = make_jobs("run", optimizer=SGD, max_epochs=3, matmul="highest", **settings)
    train(job, JobData().open(job))
    ours = safetensors.torch.load_file(job.stem.with_suffix(".safetensors"))["head.weight_CD"]
    torch.testing.assert_close(ours, plain_loop(job, 3, **loop), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, plain_loop(job, 3), rtol=1e-2, atol=1e-3)  # without the argument


def test_validation_comes_as_often_as_asked(make_jobs, monkeypatch):
    seen, real = [], SubNetwork.on_validation_epoch_end
    monkeypatch.setattr(
        SubNetwork, "on_validation_epoch_end", lambda self: (seen.append(self.trainer.current_epoch), real(self))
    )
    (job, _) = make_jobs("run", max_epochs=2, val_check_interval=2)
    train(job, JobData().open(job))
    _, data = build(job, JobData().open(job))
    assert seen == len(data.train_dataloader()) // 2 * [0] + len(data.train_dataloader()) // 2 * [1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trainer.gradient_clip_vall=1"], ["did you mean gradient_clip_val?"]),
        (["trainer.logger=true"], ["logger="]),
        (["trainer.max_steps=few"], ["max_steps", "few"]),
        (["trainer.precision=bf16-mixed"], ["trainer.precision", "matmul"]),
        (["trainer.gradient_clip_val=1", "active_classes=sampled"], ["gradient_clip_val", "active_classes"]),
        (["callbacks=[early_stoping]"], ["early_stoping", "early_stopping"]),
        (["callbacks=[ema]", "callbacks.ema.decai=1"], ["decai"]),
        (["callbacks=[early_stopping]", "+callbacks.early_stopping.patient=1"], ["patient"]),
        (["+callbacks.mine._target_=pathlib.Path"], ["a Lightning Callback"]),
        (["head=low_rang"], ["low_rang", "low_rank"]),
        (["head=low_rank", "+head.rang=1"], ["rang"]),
        (["head=low_rank", "head.rank=0"], ["rank"]),
        (["head=projected", "active_classes=sampled"], ["head=linear"]),
        (["scheduler=cosin"], ["cosin", "cosine"]),
        (["scheduler=warmup_cosine", "+scheduler.warm=1"], ["warm"]),
        (["scheduler=warmup_cosine", "scheduler.warmup=2"], ["warmup"]),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_one_line_and_nothing_is_written(compare, arguments, words):
    ended, folder = compare(*arguments, name=re.sub(r"\W+", "-", " ".join(arguments)))
    ended.assert_refused(*words)
    assert not folder.exists()


@pytest.mark.parametrize("choice", ["head=low_rank", "head=projected", "scheduler=step", "scheduler=warmup_cosine"])
def test_other_heads_and_schedulers_train(compare, choice):
    ended, folder = compare(choice, "trainer.fast_dev_run=true", name=choice.replace("=", "-"))
    assert ended.code == 0 and np.isfinite(history(folder).filter(like="loss").to_numpy()).any(), ended.err + ended.out


# Callbacks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "single"),
    [
        (["early_stopping"], None),
        (["ema"], "EMAWeightAveraging"),
        (["swa"], "StochasticWeightAveraging"),
        (["lr_monitor"], "LearningRateMonitor"),
        (["device_stats"], "trainer.log_every_n_steps"),
    ],
    ids=lambda value: str(value),
)
def test_lightning_s_callbacks_have_their_effect(compare, plain, arguments, single):
    (name,) = arguments
    more = {
        # nothing ever improves by so much
        "early_stopping": ["callbacks.early_stopping.patience=1", "+callbacks.early_stopping.min_delta=1e9"],
        "ema": ["callbacks.ema.decay=0.5"], "swa": ["callbacks.swa.swa_epoch_start=1"],
        "device_stats": ["trainer.log_every_n_steps=1"],
    }.get(name, [])  # fmt: skip
    epochs = ["trainer.max_epochs=9"] if name == "early_stopping" else []
    ended, folder = compare(f"callbacks=[{name}]", *more, *epochs, "logger=csv", name=name)
    assert ended.code == 0, ended.err + ended.out
    said = re.findall(
        r"one optimiser step per call of Lightning: (?:callback )?([\w.]+)", (folder / "log.txt").read_text()
    )
    assert said == ([single] * 2 if single else [])
    alike = all(torch.allclose(ours, theirs) for ours, theirs in zip(weights(folder), weights(plain), strict=True))
    logged = {column for file in folder.glob("csv/**/metrics.csv") for column in pd.read_csv(file)}
    if name == "early_stopping":
        assert history(folder)["epoch"].max() == 1 and alike
    elif name in ("ema", "swa"):
        assert not alike
    else:
        assert alike and [column for column in logged if column.startswith(("lr-", "DeviceStatsMonitor"))]


def test_an_average_of_weights_is_the_same_after_a_stop_in_its_last_epoch(make_jobs):
    ema = {"ema": {"_target_": "pytorch_lightning.callbacks.EMAWeightAveraging", "decay": 0.5}}
    (whole, _), (stopped, _) = make_jobs("whole"), make_jobs("stopped")
    whole.recipe.callbacks.update(ema)
    stopped.recipe.callbacks.update(ema)

    def report(done, of, values):
        if done == of:
            raise KeyboardInterrupt

    train(whole, JobData().open(whole))
    with pytest.raises(KeyboardInterrupt):
        train(stopped, JobData().open(stopped), report)
    train(stopped, JobData().open(stopped))
    ours, theirs = (safetensors.torch.load_file(job.stem.with_suffix(".safetensors")) for job in (stopped, whole))
    assert torch.equal(ours["head.weight_CD"], theirs["head.weight_CD"])


# A try ----------------------------------------------------------------------------------------------------------------


def test_a_fast_run_of_compare_and_train_takes_one_step_of_one_epoch(compare, call, quick, tmp_path, make_jobs):
    ended, folder = compare("trainer.fast_dev_run=true", name="tried")
    assert ended.code == 0, ended.err
    assert history(folder)["epoch"].tolist() == [0, 0] and not list(folder.glob("subnetworks/*/*.epoch-*"))
    words = ("name=tried", "trainer.fast_dev_run=true", f"runs_dir={tmp_path}", "scenario=clustered_nearest")
    ended = call("train", *quick, *words)
    assert ended.code == 0 and (tmp_path / "tried/identifier").is_dir(), ended.err
    (job, _) = make_jobs("one", optimizer=SGD, matmul="highest", fast_dev_run=True)
    train(job, JobData().open(job))
    ours = safetensors.torch.load_file(job.stem.with_suffix(".safetensors"))["head.weight_CD"]
    torch.testing.assert_close(ours, plain_loop(job, 1, limit=1), rtol=1e-4, atol=1e-5)


def test_a_fast_run_of_multilabel_takes_one_epoch(call, tmp_path):
    random = np.random.default_rng(0)
    data = random.poisson(1.0, (80, 6))
    target = np.stack([data[:, place] + data[:, (place + 1) % 6] > 3 for place in range(5)])
    target[:, :5] |= np.eye(5, dtype=bool)
    savemat(tmp_path / "made.mat", {"data": data.astype(np.uint8), "target": target.astype(np.int16) * 2 - 1})
    words = (f"data.path={tmp_path / 'made.mat'}", f"runs_dir={tmp_path}", "name=one", "logger=none")
    ended = call("multilabel", *words, "methods=[one_network]", "settings.epochs=3", "trainer.fast_dev_run=true")
    assert ended.code == 0, ended.err
    assert pd.read_csv(tmp_path / "one/results.csv")["epochs"].tolist() == [1]


def test_a_fast_run_of_train_facenet_takes_one_epoch(call, tmp_path, people):
    EmbeddingSet.write(tmp_path / "set", *people(n_identities=30, samples=(8, 8)))
    words = ("data=embedding_set", f"data.path={tmp_path / 'set'}", f"runs_dir={tmp_path}", "name=one", "logger=none")
    more = ("evaluation.folds=2", "evaluation.fars=[0.1]", "evaluation.held_out=0.4", "miners=[semi_hard]")
    ended = call("train_facenet", *words, *more, "network.dim=4", "trainer.fast_dev_run=true")
    assert ended.code == 0, ended.err
    (record,) = (tmp_path / "one").glob("subnetworks/*/*.json")
    assert json.loads(record.read_text())["epochs"] == 1
