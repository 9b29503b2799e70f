# SPDX-License-Identifier: MIT
"""experiments.benchmark at tiny sizes: no assertion looks at the clock."""

import io
import json
import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch.nn import functional as F

from datamodules.class_means import normalise_rows
from datamodules.errors import InputError
from datamodules.synthetic import SyntheticIdentities
from experiments.benchmarks import baselines, identification
from experiments.benchmarks import head as head_module
from experiments.benchmarks.identification import IdentificationBenchmark
from experiments.benchmarks.machine import describe
from experiments.benchmarks.measurement import Taken, measure_in_turn, record, seconds
from experiments.benchmarks.our_training import samples_per_second
from experiments.benchmarks.summary import frame, line, markdown, ratio_figure, terminal_table
from experiments.benchmarks.synthetic_data import class_means_of, probes_of
from experiments.enrolment.original import open_original
from lightning_modules.identifier import Identifier
from lightning_modules.indexes.ivf import InvertedFile
from lightning_modules.losses.arcface import ArcFaceValueOnly
from tests.rounding import rounding

KEYS = set("name classes batch precision baseline ratio ratio_min ratio_max unit ours theirs".split())
needs_pml = pytest.mark.skipif(not find_spec("pytorch_metric_learning"), reason="pytorch-metric-learning is optional")

TINY = (
    "threads=1", "trainer.accelerator=cpu", "~suite.distribution", "~suite.identify",
    "suite.head.dim=8", "suite.head.repeats=1",
)  # fmt: skip
PROCESSOR = {"threads": 1, "cpu": "Turing", "matrix_units": "AVX2"}
HEAD = "{classes: 12, batch: 16, epochs: 2, precisions: [highest]}"


@pytest.fixture(autouse=True)
def no_filling(monkeypatch):
    """Limits and probes are measured by single calls."""
    monkeypatch.setattr(baselines, "FILL_SECONDS", 0.0)
    for name, value in (("FILL_SECONDS", 0.0), ("SINGLE_PROBES", 3)):
        monkeypatch.setattr(identification, name, value)


def records_of(folder):
    return json.loads((folder / "benchmark.json").read_text())


positive = st.floats(0.01, 100)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=7), st.sampled_from(["s", "ms", "samples/s"]))
def test_a_ratio_is_above_one_where_ours_is_better_and_lies_among_its_pairs(pairs, unit):
    ours, theirs = (Taken(values, 0.0) for values in zip(*pairs, strict=True))
    made = record("n", 1, 1, "highest", "x", unit, ours, theirs)
    better = np.median(ours.values) > np.median(theirs.values)
    expected = better if unit == "samples/s" else np.median(ours.values) < np.median(theirs.values)
    assert (made["ratio"] > 1) == expected or math.isclose(made["ratio"], 1)
    assert made["ratio_min"] <= made["ratio"] * (1 + 1e-9) and made["ratio"] <= made["ratio_max"] * (1 + 1e-9)
    assert KEYS <= made.keys() and made["ours"] == np.median(ours.values) and made["theirs"] == np.median(theirs.values)


def test_sides_run_in_turn_and_back():
    order = []

    def side(name, values):
        def run():
            order.append(name)
            return values.pop(0)

        return run

    taken = measure_in_turn({"a": side("a", [1.0, 5.0, 3.0]), "b": side("b", [2.0, 2.0, 8.0])}, 3, memory=False)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert taken["a"].values == (1.0, 5.0, 3.0) and taken["a"].median == 3.0 and taken["b"].median == 2.0
    assert taken["a"].peak_mb is None


def test_peak_memory_is_that_of_the_side_that_took_it():
    def large():
        return float(np.ones(30 << 20, np.uint8).sum())

    taken = measure_in_turn({"large": large, "small": lambda: 0.0}, 1)
    assert taken["large"].peak_mb > 20 > taken["small"].peak_mb


def test_a_quick_function_is_called_until_time_is_filled():
    calls = []
    assert seconds(lambda: calls.append(1)) > 0 and len(calls) == 1
    seconds(lambda: calls.append(1), at_least=0.01)
    assert len(calls) > 2


def test_the_processor_is_named_with_its_matrix_units():
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("not Linux")
    flags = Path("/proc/cpuinfo").read_text().split()
    machine = describe(2, "cpu")
    assert machine["cpu"] and machine["threads"] == 2
    for unit, flag in (("AMX", "amx_bf16"), ("AVX-512", "avx512f"), ("AVX2", "avx2")):
        assert (unit in machine["matrix_units"].split(", ")) == (flag in flags)


def test_float32_operands_where_no_other_are_permitted():
    assert baselines.product_dtype("highest", "cpu") == baselines.product_dtype("high", "cpu") == torch.float32


@needs_pml
def test_every_side_trains_with_fused_adam():
    assert baselines.PmlHead(3, 4).configure_optimizers().defaults["fused"]


def test_the_first_epoch_counts_only_where_it_is_alone():
    history = [{"time/samples_per_second": value} for value in (1.0, 10.0, 30.0)]
    assert samples_per_second(history) == 20.0 and samples_per_second(history[:1]) == 1.0


def test_insightface_s_formulation_is_the_value_only_arcface():
    random = torch.Generator().manual_seed(0)
    cosine = torch.empty(40, 7).uniform_(-0.99, 0.99, generator=random)
    target = torch.arange(40) % 7
    one, other = cosine.clone().requires_grad_(), cosine.clone().requires_grad_()
    logits = baselines.insightface_logits(one * 1.0, target)
    F.cross_entropy(logits, target, reduction="none").sum().backward()
    expected = ArcFaceValueOnly(baselines.SCALE, baselines.MARGIN)(other, target)
    expected.sum().backward()
    torch.testing.assert_close(F.cross_entropy(logits, target, reduction="none"), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3)


def test_probes_show_the_people_whose_means_are_enrolled():
    means, (probes, who) = class_means_of(700, 64, 3), probes_of(700, 64, 3, 200)
    assert means.shape == (700, 64) and len(set(who)) == 200
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1, atol=1e-3)
    assert ((probes @ means.T).argmax(axis=1) == who).mean() > 0.7
    # Chunks of another size: sums round differently, and each is then rounded to float16, whose step is 2^-10.
    np.testing.assert_allclose(class_means_of(300, 64, 3), means[:300], rtol=2.0**-10, atol=rounding(64))


@pytest.mark.slow
@needs_pml
def test_heads_end_to_end_with_the_record_s_keys_files_and_equal_accuracy(call, tmp_path):
    size = "{classes: 40, batch: 32, images: 10, epochs: 2, precisions: [highest], accuracy_epochs: 60}"
    size = f"suite.head.sizes=[{size}]"
    larger = ("suite.head.dim=32", "suite.head.repeats=2")
    ended = call("benchmark", *TINY, *larger, size, f"runs_dir={tmp_path}", "name=a")
    assert ended.code == 0, ended.err
    folder = tmp_path / "a"
    found = {one["baseline"]: one for one in records_of(folder)}
    assert set(found) == {"lightning_pml", "insightface", "gemm", "memory"}
    for one in found.values():
        assert KEYS <= one.keys() and one["name"] == "head" and one["classes"] == 40 and one["batch"] == 32
        assert one["ratio_min"] <= one["ratio"] <= one["ratio_max"] and one["ours"] > 0 and one["theirs"] > 0
        assert one["repeats"] == 2 and one["threads"] == 1 and one["precision"] == "highest"
        assert one["cpu"] and one["matrix_units"]
        assert one["product_fraction"] == pytest.approx(found["gemm"]["ratio"])
    pair = found["lightning_pml"]
    assert pair["epochs"] == 60 and pair["accuracy_probes"] == 80
    assert abs(pair["accuracy"] - pair["theirs_accuracy"]) <= 100 * 4 / 80  # four probes
    assert pair["accuracy"] > 60
    assert {file.name for file in folder.iterdir()} >= {
        "benchmark.json", "benchmark.md", "benchmark.png", "skipped.json", "config.yaml", "manifest.json",
    }  # fmt: skip
    assert json.loads((folder / "skipped.json").read_text()) == [] and not (folder / "scratch").exists()
    assert json.loads((folder / "manifest.json").read_text())["machine"]["threads"] == 1
    assert "lightning_pml" in ended.out and "| head | 40 | 32 |" in (folder / "benchmark.md").read_text()


def test_a_missing_package_is_a_reason_and_the_rest_is_measured(call, tmp_path, monkeypatch):
    monkeypatch.setattr(head_module, "find_spec", lambda name: None)
    ended = call("benchmark", *TINY, f"suite.head.sizes=[{HEAD}]", f"runs_dir={tmp_path}", "name=a")
    assert ended.code == 0, ended.err
    (skipped,) = json.loads((tmp_path / "a/skipped.json").read_text())
    assert skipped["baseline"] == "lightning_pml" and "pip install" in skipped["reason"]
    assert "skipped" in ended.out and "pytorch-metric-learning is not installed" in ended.out
    assert {one["baseline"] for one in records_of(tmp_path / "a")} == {"insightface", "gemm", "memory"}


def test_a_finished_group_is_not_measured_again_and_others_are_added(call, tmp_path):
    target = "experiments.benchmarks.image_clustering.ImageClusteringBenchmark"
    small = f"+suite.small={{_target_: {target}, losses: [huber], dim: 2, repeats: 1}}"
    arguments = ["suite=gpu", small, "threads=1", "trainer.accelerator=cpu", f"runs_dir={tmp_path}", "name=a"]
    assert call("benchmark", *arguments, "only=[small]").code == 0
    first = records_of(tmp_path / "a")
    assert [one["name"] for one in first] == ["image clustering, huber", "image clustering, huber, objective"]
    ended = call("benchmark", *arguments, "only=null")
    assert ended.code == 0, ended.err
    assert records_of(tmp_path / "a") == first and "small: measured already" in ended.out
    assert len(json.loads((tmp_path / "a/skipped.json").read_text())) == 3


@pytest.mark.slow
def test_overhead_end_to_end(call, tmp_path):
    sizes = ("n_identities=24", "n_subnets=2", "epochs=1", "repeats=1")
    tiny = [f"suite.overhead.{size}" for size in (*sizes, "images=5", "dim=8")]
    ended = call("benchmark", "suite=full", "only=[overhead]", "threads=1", *tiny, f"runs_dir={tmp_path}", "name=a")
    assert ended.code == 0, ended.err
    found = [(one["name"], one["baseline"]) for one in records_of(tmp_path / "a")]
    assert (
        found
        == [
            ("coordinator, in_process", "bare loops"),
            ("coordinator, 2 processes of 1 thread", "in_process, 1 thread"),
        ]
        or found[1][0] == "coordinator, 1 processes of 1 thread"
    )


def test_without_a_gpu_each_group_of_its_suite_is_a_reason(call, tmp_path):
    ended = call("benchmark", "suite=gpu", "trainer.accelerator=cpu", f"runs_dir={tmp_path}", "name=a")
    assert ended.code == 0, ended.err
    skipped = json.loads((tmp_path / "a/skipped.json").read_text())
    assert [one["name"] for one in skipped] == ["head", "workers that share a GPU", "one head on two GPUs"]
    assert [one["reason"].split(" (")[0][-9:] for one in skipped] == ["needed: 1", "needed: 1", "needed: 2"]
    assert records_of(tmp_path / "a") == [] and ended.out.count("skipped, GPUs found: 0") == 3


@pytest.mark.slow
def test_workers_and_two_devices_run_on_a_cpu_where_no_gpu_is_asked_for(call, tmp_path):
    tiny = {
        "workers": "n_subnets=2 classes=6 images=5 epochs=2 repeats=1 dim=8 per_gpu=[2]",
        "devices": "classes=[12] batches=[16] steps=2 images=6 epochs=2 repeats=1 dim=8",
    }
    sizes = [f"suite.{name}.group.{size}" for name, text in tiny.items() for size in text.split()]
    ended = call(
        "benchmark", "suite=gpu", "only=[workers,devices]", "suite.workers.gpus=0", "suite.devices.gpus=0",
        "threads=1", "trainer.accelerator=cpu", *sizes, f"runs_dir={tmp_path}", "name=a",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = [(one["name"], one["baseline"]) for one in records_of(tmp_path / "a")]
    assert found == [
        ("2 sub-networks, 2 workers", "one worker"),
        ("head on two devices, ddp", "one device"),
        ("head on two devices, model_parallel", "one device"),
    ]
    assert all(one["ours"] > 0 and one["theirs"] > 0 for one in records_of(tmp_path / "a"))


@pytest.mark.slow
def test_distribution_end_to_end(call, tmp_path):
    ended = call(
        "benchmark", "suite=full", "only=[distribution]", "threads=1", "trainer.accelerator=cpu",
        "suite.distribution.n_identities=[40]", "suite.distribution.dim=8", "suite.distribution.repeats=1",
        "suite.distribution.epochs=1", f"runs_dir={tmp_path}", "name=a",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    random, kmeans = records_of(tmp_path / "a")
    assert random["baseline"] == kmeans["baseline"] == "no_distribution" and random["n_subnets"] == 2
    assert random["ratio_by_m"] == pytest.approx(random["ratio"] / 2) and random["unit"] == "s"


@pytest.mark.slow
def test_identification_end_to_end_states_agreement_of_both(call, tmp_path, monkeypatch):
    for name, value in (("FILL_SECONDS", 0.0), ("SINGLE_PROBES", 3)):
        monkeypatch.setattr(identification, name, value)
    ended = call(
        "benchmark", "only=[identify]", "threads=1", "trainer.accelerator=cpu", "suite.identify.n_identities=[300]",
        "suite.identify.dim=32", "suite.identify.n_probes=60", "suite.identify.repeats=1",
        "suite.identify.per_cluster=60", "suite.identify.batches=[1,16]",
        "suite.identify.against=[faiss_flat,faiss_ivf]", "suite.identify.agreement=95",
        f"runs_dir={tmp_path}", "name=a",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = records_of(tmp_path / "a")
    assert len(found) == 2 * 2
    assert all(one["agreement"] >= 95 and one["theirs_agreement"] >= 95 and one["accuracy"] > 50 for one in found)
    singles = [one for one in found if one["batch"] == 1]
    assert all(0 < one["ours_median_ms"] <= one["ours_p99_ms"] for one in singles)
    assert all(0 < one["theirs_median_ms"] <= one["theirs_p99_ms"] for one in singles)


def test_bare_faiss_gives_the_nearest_class_means_that_our_index_finds():
    means_KD, (probes_BD, _) = class_means_of(300, 32, 0), probes_of(300, 32, 0, 100)
    flat = faiss.IndexFlatIP(32)
    flat.add(means_KD)
    ours = identification.identifier_of(means_KD, 10, 0).with_index(InvertedFile(30, 4, "int8", 16, 0.5))
    unit_BD = normalise_rows(probes_BD)
    found_B = identification.bare_lists(ours, flat)(unit_BD, 4)
    assert found_B.tolist() == ours.scores(torch.from_numpy(probes_BD)).nearest_classes(1)[1][:, 0].tolist()


def test_a_trained_identifier_is_measured_with_the_test_samples_of_its_data(call, tmp_path):
    folder = SyntheticIdentities(40, 16, samples_per_identity=10).write(tmp_path / "set").path
    ended = call(
        "train", "data=embedding_set", f"data.path={folder}", "scenario=clustered_nearest", "n_subnets=2",
        "trainer.max_epochs=2", "init=prototype", f"out={tmp_path / 'identifier'}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    trained = Identifier.load(tmp_path / "identifier")
    probes_BD, who_B = identification.probes_of_data("", trained, 10**6, 0)
    assert len(who_B) == open_original(trained).splits.test.labels.size and set(who_B) <= set(range(40))
    assert (trained.identify(probes_BD).index == who_B).mean() > 0.7
    group = IdentificationBenchmark([], [str(tmp_path / "identifier")], [1], repeats=1, dim=16, against=["faiss_flat"])
    (found,) = group.measure(SimpleNamespace(cfg=SimpleNamespace(seed=0)))
    assert found["heads"] == "trained" and found["data"] == "identifier" and found["classes"] == 40
    assert found["accuracy"] == pytest.approx(100 * (trained.identify(probes_BD).index == who_B).mean(), abs=2)
    lost = replace(trained, provenance={})
    with pytest.raises(InputError, match="does not say which data"):
        identification.probes_of_data("x", lost, 9, 0)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["only=[heads]"], ["only", "head"]),
        (["only=[]"], ["only"]),
        (["threads=0"], ["threads"]),
        (["only=[head]", "suite.head.sizes=[{classes: 9, batch: 3, against: [tensorflow]}]"], ["tensorflow"]),
        (["only=[identify]", "suite.identify.against=[tree]"], ["tree"]),
        (["only=[head]", "suite.head.nothing=1"], ["nothing"]),
        (["nothing=1"], ["nothing"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(call, tmp_path, arguments, words):
    ended = call("benchmark", *arguments, f"runs_dir={tmp_path}")
    assert ended.code == 2 and ended.err.count("\n") == 1, ended.err
    assert all(word in ended.err for word in words)
    assert list(tmp_path.iterdir()) == []


def test_a_page_without_records_says_so():
    text = markdown([], [{"name": "n", "baseline": "x", "reason": "r"}], PROCESSOR, None)
    assert "Nothing was measured" in text and "n against x: r" in text


def test_line_table_and_figure_show_the_numbers():
    made = record("head", 2000, 1024, "medium", "gemm", "samples/s", Taken((3.0, 4.0), 5.0), Taken((2.0, 2.0), 7.0))
    made |= {"accuracy": 91.25, "theirs_accuracy": 91.5, "product_fraction": 0.721, **PROCESSOR}
    assert "72 % of the matrix product; against gemm on Turing (AVX2) 1.75 [1.50, 2.00]" in line(made)
    assert "91.25 % and 91.50 %" in line(made)
    assert frame([made])["peak MiB"].tolist() == ["5 / 7"]
    assert len(ratio_figure([made, {**made, "ratio": 0.5, "ratio_min": 0.25}]).axes[0].patches) == 2
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table([made, {**made, "baseline": "memory", "ours_peak_mb": None}]))
    shown = console.export_text()
    assert shown.count("72 % of the matrix product") == 1 and "Turing (AVX2), 1 threads" in shown and "– / 7" in shown
