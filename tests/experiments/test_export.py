# SPDX-License-Identifier: MIT
"""experiments.export for other tools: their own readers read what it writes."""

import faiss
import numpy as np
import pytest
import torch
import yaml

from lightning_modules.identifier import Identifier


@pytest.fixture(scope="module")
def trained(tmp_path_factory, set_folder, call):
    """The folder of an identifier of the toy set with a threshold."""
    folder = tmp_path_factory.mktemp("export")
    ended = call(
        "train", "data=embedding_set", f"data.path={set_folder}", "n_subnets=2", "logger=none", "init=prototype",
        "trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.batch_size=16", "split.held_out=0.2", "fpir=0.1",
        f"out={folder / 'identifier'}", f"runs_dir={folder / 'runs'}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return folder / "identifier"


@pytest.fixture
def export(trained, call, tmp_path):
    """Calls the command; out is `<tmp_path>/people`."""
    return lambda *more: call("export", f"identifier={trained}", f"out={tmp_path / 'people'}", *more)


def test_a_folder_of_the_hub_answers_as_the_identifier_and_its_card_has_the_results(export, trained, tmp_path):
    ended = export("format=huggingface")
    assert ended.code == 0, ended.err
    assert {file.name for file in (tmp_path / "people").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    old, new = Identifier.load(trained), Identifier.load(tmp_path / "people")
    probes = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    for one, other in zip(*(vars(made.identify(probes)).values() for made in (old, new)), strict=True):
        np.testing.assert_array_equal(one, other)
    text = (tmp_path / "people/README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---\n")[1])
    (result,) = header["model-index"][0]["results"]
    told = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert told["f1"] == pytest.approx(old.provenance["test"]["f1"], abs=1e-4) and 0 < told["f1"] <= 100
    assert f"{old.threshold:.4f}" in text and "10.00%" in text and "biometric" in text and "clustered_nearest" in text
    for file in (tmp_path / "people").iterdir():
        assert str(trained.parent).encode() not in file.read_bytes(), f"{file.name} names a path of this machine"
        assert b"data_path" not in file.read_bytes()


def test_the_hub_s_own_reader_takes_the_card(export, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    assert export("format=huggingface").code == 0
    card = hub.ModelCard.load(tmp_path / "people/README.md")
    assert card.data.library_name == "clusterface" and card.data.model_name == "people"
    assert {one.metric_type for one in card.data.eval_results} >= {"f1", "accuracy"}


def test_faiss_reads_the_class_means_and_finds_who_is_nearest(export, trained, tmp_path):
    ended = export("format=faiss")
    assert ended.code == 0, ended.err
    index, identifier = faiss.read_index(str(tmp_path / "people")), Identifier.load(trained)
    names = (tmp_path / "people.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(names) == identifier.identities and index.metric_type == faiss.METRIC_INNER_PRODUCT
    probes = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    cosines, found = index.search(probes, 1)
    products = probes @ identifier.class_means_KD.numpy().T
    np.testing.assert_array_equal(found[:, 0], products.argmax(1))
    np.testing.assert_allclose(cosines[:, 0], products.max(1), rtol=1e-5)


def test_what_exists_is_replaced_if_it_is_the_same_kind_of_thing(export, tmp_path):
    export("format=hugingface").assert_refused("did you mean huggingface?")
    assert export("format=huggingface").code == 0
    export("format=huggingface").assert_refused("exists", "overwrite=true")
    assert export("format=huggingface", "overwrite=true").code == 0
    export("format=faiss", "overwrite=true").assert_refused("another kind")
    (tmp_path / "people/config.json").write_text('{"format": "other"}')
    export("format=huggingface", "overwrite=true").assert_refused("no exported identifier")
    assert (tmp_path / "people/model.safetensors").is_file()


def test_an_exported_folder_that_was_altered_is_refused(export, tmp_path, call):
    assert export("format=huggingface").code == 0
    weights = tmp_path / "people/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    call("export", f"identifier={tmp_path / 'people'}", f"out={tmp_path / 'x'}").assert_refused(
        "config.json", "altered"
    )
