# SPDX-License-Identifier: MIT
import importlib
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.errors import InputError
from lightning_modules import identifier as module
from lightning_modules.decisions.argmax import Argmax
from lightning_modules.decisions.nearest_mean import NearestMean
from lightning_modules.identifier import Identifier
from lightning_modules.routers.cluster_mean import ClusterMean
from lightning_modules.routers.max_output import MaxOutput
from lightning_modules.routers.nearest_class import NearestClass
from tests.rounding import rounding


def assemble(made, router=None, decision=None, **more):
    router = NearestClass() if router is None and made.partition.n_clusters > 1 else router
    return Identifier(
        identities=tuple(f"person {i}" for i in range(made.partition.n_identities)),
        class_means_KD=torch.from_numpy(made.means_KD),
        partition=made.partition,
        decision=decision or Argmax(),
        router=router,
        heads=made.heads(),
        **more,
    )


VARIANTS = {
    "nearest": dict(router=NearestClass(3)),
    "max-max": dict(router=MaxOutput("probability", scale=20.0)),
    "mean": dict(router=ClusterMean(), threshold=0.25),
    "KNN": dict(decision=NearestMean()),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [dict(), dict(extra=[[0, 1], [0, 2]])], ids=["disjoint", "overlapping"])
def test_a_saved_identifier_comes_back_and_answers_alike(tmp_path, parts, variant, shape):
    made = parts(**shape)
    identifier = assemble(made, **VARIANTS[variant], provenance={"scenario": variant})
    identifier.save(tmp_path / "identifier")
    assert sorted(file.name for file in (tmp_path / "identifier").iterdir()) == [
        "identifier.json",
        "identifier.safetensors",
    ]
    loaded = Identifier.load(tmp_path / "identifier")
    one, other = identifier.identify(made.probes_BD), loaded.identify(made.probes_BD)
    assert one.identity == other.identity and one.cluster.tolist() == other.cluster.tolist()
    assert one.index.tolist() == other.index.tolist()
    np.testing.assert_allclose(one.score, other.score, rtol=0, atol=rounding(6))
    assert loaded.provenance == {"scenario": variant} and loaded.threshold == identifier.threshold
    assert vars(loaded.router) == vars(identifier.router) and type(loaded.decision) is type(identifier.decision)
    assert loaded.partition.hash() == made.partition.hash()


def test_an_identifier_without_heads_comes_back(tmp_path, parts):
    made = parts(m=1)
    identifier = replace(assemble(made, decision=NearestMean()), heads=None)
    identifier.save(tmp_path / "identifier")
    loaded = Identifier.load(tmp_path / "identifier")
    assert loaded.heads is None and loaded.router is None
    assert loaded.identify(made.probes_BD).index.tolist() == made.mean_cosines().argmax(axis=1).tolist()


@pytest.mark.parametrize("at_once", [1, 5, 17, 4096])
def test_probes_may_come_in_any_blocks_and_any_kind_of_array(tmp_path, parts, monkeypatch, at_once):
    made = parts()
    identifier = assemble(made)
    expected = identifier.identify(made.probes_BD)
    monkeypatch.setattr(module, "PROBES_AT_ONCE", at_once)
    np.save(tmp_path / "probes.npy", made.probes_BD)
    mapped = np.load(tmp_path / "probes.npy", mmap_mode="r")
    for probes in (made.probes_BD, mapped, torch.from_numpy(made.probes_BD), made.probes_BD.astype(np.float64)):
        found = identifier.identify(probes)
        assert found.identity == expected.identity and found.index.tolist() == expected.index.tolist()
        np.testing.assert_allclose(found.score, expected.score, atol=1e-6)
    assert np.array_equal(np.load(tmp_path / "probes.npy"), made.probes_BD)


def test_scores_under_the_threshold_are_unknown_and_those_on_it_are_not(parts):
    made = parts()
    everybody = assemble(made).identify(made.probes_BD)
    threshold = float(np.sort(everybody.score)[8])
    found = assemble(made, threshold=threshold).identify(made.probes_BD)
    for b, score in enumerate(found.score):
        assert found.index[b] == (everybody.index[b] if score >= threshold else -1)
        assert found.identity[b] == (everybody.identity[b] if score >= threshold else "unknown")
    assert (found.index == -1).sum() in (8, 9)  # the one on the threshold may round to below it
    np.testing.assert_allclose(found.score, everybody.score, rtol=0, atol=rounding(6))
    assert found.cluster.tolist() == everybody.cluster.tolist()


def test_no_probes_get_no_answers(parts):
    found = assemble(parts()).identify(np.zeros((0, 6), np.float32))
    assert found.identity == () and len(found.index) == len(found.score) == len(found.cluster) == 0


def test_rotating_all_vectors_changes_no_answer(parts):
    made = parts()
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0].astype(np.float32)
    turned = replace(made, probes_BD=made.probes_BD @ rotation, means_KD=made.means_KD @ rotation,
                     rows=[rows @ rotation for rows in made.rows])  # fmt: skip
    for variant in VARIANTS.values():
        one, other = (assemble(m, **variant).identify(m.probes_BD) for m in (made, turned))
        assert one.identity == other.identity
        np.testing.assert_allclose(one.score, other.score, atol=1e-5)


@pytest.mark.parametrize("at_once", [4, 4096])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_probes_without_a_direction_are_unknown_and_the_others_keep_their_answers(parts, monkeypatch, value, at_once):
    monkeypatch.setattr(module, "PROBES_AT_ONCE", at_once)
    made = parts()
    for name, variant in VARIANTS.items():
        identifier, probes = assemble(made, **variant), made.probes_BD.copy()
        expected = identifier.identify(probes)
        probes[5, 2] = value
        probes[5] *= value != 0
        found, others = identifier.identify(probes), np.arange(17) != 5
        assert (found.index[5], found.identity[5], found.cluster[5]) == (-1, "unknown", -1), name
        assert np.isnan(found.score[5]) and np.array_equal(found.index[others], expected.index[others])
        assert np.isfinite(found.score[others]).all()
        assert identifier.identify(probes[5:6]).identity == ("unknown",)


@pytest.mark.parametrize("factor", [1e20, 1e25, 3e37, 1e-25, 1e-37])
def test_probes_of_any_length_that_float32_can_hold_have_the_same_answers(parts, factor):
    made = parts()
    for variant in VARIANTS.values():
        identifier, unit = assemble(made, **variant), made.unit_probes()
        expected, found = identifier.identify(unit), identifier.identify((factor * unit).astype(np.float32))
        assert np.array_equal(found.index, expected.index)
        np.testing.assert_allclose(found.score, expected.score, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5), (6,), (2, 3, 6)])
def test_probes_of_another_shape_are_refused(parts, shape):
    with pytest.raises(InputError, match="6"):
        assemble(parts()).identify(np.ones(shape, np.float32))


# What cannot be an identifier -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        dict(router=None),  # four clusters, and nobody says which
        dict(heads=None),
        dict(threshold=float("nan")),
    ],
    ids=str,
)
def test_parts_that_do_not_make_a_whole_are_refused(parts, change):
    with pytest.raises(InputError):
        replace(assemble(parts()), **change)


@pytest.fixture
def saved(tmp_path, parts):
    assemble(parts(), threshold=0.1).save(tmp_path / "identifier")
    return tmp_path / "identifier"


def test_a_folder_is_not_overwritten(saved, parts):
    before = (saved / "identifier.json").read_bytes()
    with pytest.raises(InputError, match="exists"):
        assemble(parts(seed=1)).save(saved)
    assert (saved / "identifier.json").read_bytes() == before


@pytest.mark.parametrize("name", ["identifier.json", "identifier.safetensors"])
def test_a_truncated_or_missing_file_is_refused(saved, name):
    whole = (saved / name).read_bytes()
    for length in (0, 1, 8, len(whole) // 2, len(whole) - 3):
        (saved / name).write_bytes(whole[:length])
        with pytest.raises(InputError):
            Identifier.load(saved)
    (saved / name).unlink()
    with pytest.raises(InputError, match=name):
        Identifier.load(saved)


def test_one_changed_byte_of_the_weights_is_noticed(saved):
    content = bytearray((saved / "identifier.safetensors").read_bytes())
    content[-1] ^= 1
    (saved / "identifier.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="altered"):
        Identifier.load(saved)


def test_the_weights_of_another_identifier_are_refused(saved, tmp_path, parts):
    assemble(parts(seed=1)).save(tmp_path / "other")
    (saved / "identifier.safetensors").write_bytes((tmp_path / "other" / "identifier.safetensors").read_bytes())
    with pytest.raises(InputError, match="altered"):
        Identifier.load(saved)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        Identifier.load(tmp_path / "none")
    with pytest.raises(InputError, match="identifier.json"):
        Identifier.load(tmp_path)


ROUTER = "lightning_modules.routers.nearest_class.NearestClass"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"identities": ["too", "few"]},
        {"identities": None},
        {"n_clusters": 3},
        {"n_clusters": 10**12},
        {"n_clusters": "4"},
        {"sha256": 5},
        {"router": None},
        {"router": []},
        {"router": {"class": ROUTER}},
        {"router": {"class": ROUTER, "arguments": {"p": 0}}},
        {"router": {"class": ROUTER, "arguments": {"q": 1}}},
        {"router": {"class": "os.system", "arguments": {"command": "touch sprung"}}},
        {"router": {"class": "lightning_modules.routers.nearest_class.torch", "arguments": {}}},
        {"router": {"class": "lightning_modules.routers.base.Router", "arguments": {}}},
        {"router": {"class": "lightning_modules.routers.none.None", "arguments": {}}},
        {"decision": None},
        {"decision": {"class": ROUTER, "arguments": {}}},
        {"threshold": "0.3"},
        {"threshold": [0.3]},
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_is_refused(saved, monkeypatch, change):
    monkeypatch.chdir(saved)
    content = json.loads((saved / "identifier.json").read_text())
    (saved / "identifier.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError) as caught:
        Identifier.load(saved)
    assert "\n" not in str(caught.value) and not (saved / "sprung").exists()


@pytest.mark.parametrize("key", ["format", "identities", "n_clusters", "router", "decision", "threshold", "sha256"])
def test_a_description_without_a_key_is_refused(saved, key):
    content = json.loads((saved / "identifier.json").read_text())
    del content[key]
    (saved / "identifier.json").write_text(json.dumps(content))
    with pytest.raises(InputError):
        Identifier.load(saved)


def test_an_unknown_device_is_named(saved):
    with pytest.raises(InputError, match="nowhere"):
        Identifier.load(saved, device="nowhere")


OWN = """
from lightning_modules.routers.cluster_mean import ClusterMean

class Mine(ClusterMean):
    pass
"""


@pytest.fixture
def own_router(tmp_path, monkeypatch):
    (tmp_path / "made_elsewhere").mkdir()
    (tmp_path / "made_elsewhere/routers.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("made_elsewhere.routers").Mine()
    for name in ("made_elsewhere.routers", "made_elsewhere"):
        sys.modules.pop(name, None)


def test_a_router_of_one_s_own_is_loaded_if_its_package_is_allowed(tmp_path, parts, own_router, caplog):
    assemble(parts(), router=own_router).save(tmp_path / "identifier")
    assert "allow=['made_elsewhere']" in caplog.text  # said when it is saved
    del sys.modules["made_elsewhere.routers"]
    with pytest.raises(InputError, match=r"allow=\[made_elsewhere\]"):
        Identifier.load(tmp_path / "identifier")
    with pytest.raises(InputError):
        Identifier.load(tmp_path / "identifier", allow=["made"])
    assert "made_elsewhere.routers" not in sys.modules
    for allowed in ("made_elsewhere", "made_elsewhere.routers"):
        assert type(Identifier.load(tmp_path / "identifier", allow=[allowed]).router).__name__ == "Mine"


def test_a_router_that_nobody_could_load_is_not_saved(tmp_path, parts):
    class Local(ClusterMean):
        pass

    with pytest.raises(InputError, match="module of its own"):
        assemble(parts(), router=Local()).save(tmp_path / "identifier")
    assert not (tmp_path / "identifier").exists()


def test_the_word_for_unknown_can_be_chosen_and_is_nobody_s_name(tmp_path, parts):
    made = parts()
    identifier = assemble(made, threshold=2.0, unknown="niemand")
    identifier.save(tmp_path / "identifier")
    loaded = Identifier.load(tmp_path / "identifier")
    assert set(loaded.identify(made.probes_BD).identity) == {"niemand"}
    with pytest.raises(InputError, match="a person called 'person 0'"):
        replace(loaded, unknown="person 0")
