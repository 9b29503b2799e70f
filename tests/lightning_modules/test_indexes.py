# SPDX-License-Identifier: MIT
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from datamodules.class_means import normalise_rows
from datamodules.errors import InputError
from datamodules.files import read_json, sha256, write_json
from datamodules.partitioners.kmeans import KMeansPartitioner
from lightning_modules.decisions.argmax import Argmax
from lightning_modules.decisions.nearest_mean import NearestMean
from lightning_modules.identifier import Identifier
from lightning_modules.indexes import ivf
from lightning_modules.indexes.base import ClassIndex, IndexSearch, Rows, all_of
from lightning_modules.indexes.exact import Exact
from lightning_modules.indexes.ivf import InvertedFile
from lightning_modules.quick_answers import QuickAnswers
from lightning_modules.routers.nearest_class import NearestClass
from lightning_modules.saved_parts import describe, restore, tensors_of
from lightning_modules.scores import Heads, ProbeScores
from tests.rounding import rounding

CONFIGS = Path(__file__).resolve().parents[2] / "experiments/configs/index"
NAMES = sorted(file.stem for file in CONFIGS.glob("*.yaml"))


class People:
    """400 unit class means in 8 k-means clusters, and 50 probes near some of them."""

    def __init__(self, k=400, m=8, dim=16, seed=0):
        random = np.random.default_rng(seed)
        families = random.standard_normal((m, dim))
        self.means = normalise_rows(families[random.integers(m, size=k)] + 0.7 * random.standard_normal((k, dim)))
        self.partition = KMeansPartitioner().fit(self.means, m)
        who = random.integers(k, size=50)
        self.probes = normalise_rows(self.means[who] + 0.1 * random.standard_normal((50, dim)))
        cosines = self.probes.astype(np.float64) @ self.means.astype(np.float64).T
        self.order, self.cosines = np.argsort(-cosines, axis=1), -np.sort(-cosines, axis=1)

    def search(self, index):
        return index.open(torch.from_numpy(self.means))

    def identifier(self, index=None, decision=None):
        heads = Heads.pack(
            self.partition,
            [torch.from_numpy(self.means[self.partition.members(c)]) for c in range(self.partition.n_clusters)],
        )
        names = tuple(f"person {i}" for i in range(len(self.means)))
        means = torch.from_numpy(self.means)
        return Identifier(names, means, self.partition, decision or Argmax(), NearestClass(), heads).with_index(index)


@pytest.fixture(scope="module")
def people():
    return People()


def build(name):
    return instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"))


@pytest.mark.parametrize("p", [1, 3])
def test_an_index_that_looks_everywhere_is_exact(people, p):
    cosine, identity = people.search(InvertedFile(n_cells=12, n_probe=12))(torch.from_numpy(people.probes), p)
    assert np.array_equal(identity.numpy(), people.order[:, :p])
    np.testing.assert_allclose(cosine.numpy(), people.cosines[:, :p], atol=1e-5)


@pytest.mark.parametrize("encoding, most", [("float16", 1e-3), ("int8", 2e-2)])
def test_rounded_class_means_only_choose_whom_to_compare(people, encoding, most):
    search = people.search(InvertedFile(n_cells=12, n_probe=12, encoding=encoding))
    cosine, identity = search(torch.from_numpy(people.probes), 2)
    found = np.einsum("bpd,bd->bp", people.means[identity.numpy()], people.probes)
    np.testing.assert_allclose(cosine.numpy(), found, atol=1e-5)
    assert np.array_equal(identity[:, 0].numpy(), people.order[:, 0])
    assert (people.cosines[:, :2] - cosine.numpy()).max() < most


@pytest.mark.parametrize("batch", [1, 7, 60])
@pytest.mark.parametrize(
    "index",
    [
        InvertedFile(40, 1, "float32", None, 0.97), InvertedFile(40, 1, "int8", 15, 0.97),
        InvertedFile(40, 1, "float16", None, 0.97),
    ],
    ids=["float32", "int8", "float16"],
)  # fmt: skip
def test_probes_that_resemble_nobody_are_compared_with_all(index, batch, monkeypatch):
    people = People(k=393)
    # Sizes that leave blocks and groups which are not full, and groups whose class means are not compared.
    for name, size in {"BLOCK": 160, "GROUP": 4, "GROUPS": 2, "MANY_PROBES": 40}.items():
        monkeypatch.setattr(ivf, name, size)
    monkeypatch.setattr(ivf, "BLOCK_ELEMENTS", 20 * 2 * 16 * 4)  # 20 probes
    strangers = normalise_rows(np.random.default_rng(9).standard_normal((60, 16)))
    nearest = (strangers.astype(np.float64) @ people.means.T).argmax(axis=1)

    def answers(index):
        search = people.search(index)
        return torch.cat([search(part, 1)[1][:, 0] for part in torch.from_numpy(strangers).split(batch)]).numpy()

    assert np.array_equal(answers(index), nearest)
    assert not np.array_equal(answers(InvertedFile(**{**vars(index), "exact_below": None})), nearest)


def test_directions_that_hold_everything_change_nothing():
    random = np.random.default_rng(4)
    means = normalise_rows(random.standard_normal((200, 5)) @ random.standard_normal((5, 16)))
    search = InvertedFile(8, 8, dims=5).open(torch.from_numpy(means))
    _, identity = search(torch.from_numpy(means), 1)
    assert identity[:, 0].tolist() == list(range(200))


@pytest.mark.parametrize("n_probe", [1, 2, 7])
@pytest.mark.parametrize("batch", [1, 50])
def test_an_inverted_file_finds_the_best_of_the_cells_it_looks_into(people, n_probe, batch):
    index = InvertedFile(20, n_probe, exact_below=None).fit(torch.from_numpy(people.means))
    cosine, identity = people.search(index)(torch.from_numpy(people.probes[:batch]), 2)
    for probe, found, values in zip(people.probes, identity.tolist(), cosine.tolist(), strict=False):
        cells = np.argsort(-(index.centre_LR.numpy().astype(np.float64) @ probe))[:n_probe]
        seen = np.flatnonzero(np.isin(index.cell_K.numpy(), cells))
        cosines = people.means[seen].astype(np.float64) @ probe
        best = np.argsort(-cosines)[:2]
        assert found == seen[best].tolist()
        np.testing.assert_allclose(values, cosines[best], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_one_probe_at_a_time_and_all_together_give_the_same(people, name):
    identifier = people.identifier(build(name))
    alone = [identifier.identify(people.probes[i : i + 1]) for i in range(50)]
    for times in (1, 4):
        together = identifier.identify(np.concatenate([people.probes] * times))
        assert together.identity == tuple(one.identity[0] for one in alone) * times
        np.testing.assert_allclose(together.score, [one.score[0] for one in alone] * times, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_usual_settings_agree_with_exact_routing_on_a_small_set(people, name):
    exact = people.identifier().identify(people.probes)
    assert people.identifier(build(name)).identify(people.probes).identity == exact.identity
    exact = people.identifier(decision=NearestMean()).identify(people.probes)
    found = people.identifier(build(name), NearestMean()).identify(people.probes)
    assert found.identity == exact.identity and np.array_equal(exact.index, people.order[:, 0])


@pytest.mark.parametrize("size", [1, 50])
@pytest.mark.parametrize("n_probe, exact_below", [(1, 1.0), (12, None)], ids=["falls back", "all cells"])
@pytest.mark.parametrize("encoding, dims, alike", [("float32", None, 1.0), ("int8", 15, 0.9)])
def test_with_rows_an_index_finds_the_best_rows_and_gives_the_cosines_of_class_means(
    people, encoding, dims, alike, n_probe, exact_below, size
):
    random, order = np.random.default_rng(3), np.random.default_rng(4).permutation(400)
    rows_KD = normalise_rows(people.means + 0.2 * random.standard_normal(people.means.shape))
    rows = Rows(rows_KD[order], np.append(np.argsort(order), -1))
    search = InvertedFile(12, n_probe, encoding, dims, exact_below).open(torch.from_numpy(people.means), rows)
    best_BQ = np.argsort(-people.probes @ rows_KD.T, axis=1)[:, :16]
    assert not np.array_equal(np.sort(best_BQ), np.sort(people.order[:, :16]))
    found = [search.candidates(people.probes[i : i + size], 16) for i in range(0, 50, size)]
    cosine_BQ, identity_BQ = map(np.concatenate, zip(*found, strict=True))
    shared = [len(set(one) & set(other)) for one, other in zip(identity_BQ, best_BQ, strict=True)]
    assert np.mean(shared) >= alike * 16
    truth_BQ = np.einsum("bqd,bd->bq", people.means[identity_BQ], people.probes)
    np.testing.assert_allclose(cosine_BQ, truth_BQ, atol=1e-5)


@pytest.mark.parametrize("p, k", [(1, 400), (2, 400), (2, 20), (3, 20), (5, 5)])
@pytest.mark.parametrize("size", [1, 50])
def test_as_many_candidates_are_found_as_are_asked_for(people, p, k, size):
    means, probes = people.means[:k], torch.from_numpy(people.probes)
    search = InvertedFile(8, 8, "int8", 15, exact_below=None).open(torch.from_numpy(means))
    found = [search(part, p) for part in probes.split(size)]
    cosine, identity = (torch.cat(part) for part in zip(*found, strict=True))
    expected = -np.sort(-people.probes @ means.T, axis=1)[:, :p]
    assert (identity >= 0).all()
    assert (expected - cosine.numpy()).max() < 0.02


@pytest.mark.parametrize("index", [InvertedFile(12, 12, "int8", 15), InvertedFile(40, 8)])
@pytest.mark.parametrize("noise", [0.3, 1.5])  # near the class means, and rows of which the whole head is looked at
def test_an_index_reads_few_rows_of_heads_and_answers_as_without(people, index, noise):
    random, clusters = np.random.default_rng(5), range(people.partition.n_clusters)
    rows = normalise_rows(people.means + noise / 4 * random.standard_normal(people.means.shape))
    heads = Heads.pack(people.partition, [torch.from_numpy(rows[people.partition.members(c)]) for c in clusters])
    exact = replace(people.identifier(), heads=heads)
    probes = normalise_rows(people.probes + 0.1 * random.standard_normal(people.probes.shape))
    expected, found = (one.identify(probes) for one in (exact, exact.with_index(index)))
    assert not np.array_equal(expected.index, people.identifier(decision=NearestMean()).identify(probes).index)
    assert (expected.index == found.index).mean() >= 0.96
    np.testing.assert_allclose(found.score, (rows[found.index] * probes).sum(1), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_probes_without_direction_are_unknown_with_an_index(people, name):
    probes = np.float32(people.probes[:4]) * np.float32([[1e25], [1e-25], [0], [np.nan]])
    found = people.identifier(build(name)).identify(probes)
    alone = people.identifier(build(name)).identify(probes[1:2])
    assert found.index.tolist() == [*people.order[:2, 0], -1, -1] and alone.index[0] == people.order[1, 0]
    assert np.isnan(found.score[2:]).all() and found.cluster[2:].tolist() == [-1, -1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 2, 30])
def test_few_class_means_are_all_found(name, k):
    means = normalise_rows(np.random.default_rng(1).standard_normal((k, 6)))
    search = build(name).open(torch.from_numpy(means))
    if search is not None:
        _, identity = search(torch.from_numpy(means), 1)
        assert identity.flatten().tolist() == list(range(k))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("p", [25, 30, 99])
def test_more_candidates_than_an_index_holds_ready_are_completed(name, p):
    means = normalise_rows(np.random.default_rng(2).standard_normal((30, 6)))
    partition = KMeansPartitioner().fit(means, 10)
    search = build(name).open(torch.from_numpy(means))
    scores = ProbeScores(torch.from_numpy(means[:4]), torch.from_numpy(means), partition, None, search=search)
    _, identity = scores.nearest_classes(p)
    expected = np.argsort(-(means[:4].astype(np.float64) @ means.T), axis=1)[:, : min(p, 30)]
    assert identity.shape == expected.shape
    assert all(set(row) <= set(range(30)) and len(set(row)) == len(row) for row in identity.tolist())
    assert np.array_equal(identity[:, 0], expected[:, 0])


@pytest.mark.parametrize("name", [*NAMES, "int8"])
def test_an_index_comes_back_from_disk(people, name, tmp_path):
    identifier = people.identifier(InvertedFile(encoding="int8", dims=8) if name == "int8" else build(name))
    identifier.save(tmp_path / "identifier")
    loaded = Identifier.load(tmp_path / "identifier")
    assert describe(loaded.index) == describe(identifier.index)
    learned = tensors_of(loaded.index, "index")
    assert learned.keys() == tensors_of(identifier.index, "index").keys()
    assert all(torch.equal(value, tensors_of(identifier.index, "index")[key]) for key, value in learned.items())
    one, other = identifier.identify(people.probes), loaded.identify(people.probes)
    assert one.identity == other.identity
    np.testing.assert_allclose(one.score, other.score, rtol=0, atol=rounding(16))


@pytest.mark.parametrize("name", NAMES)
def test_fitting_again_gives_the_same_index(people, name):
    means = torch.from_numpy(people.means)
    one, other = (tensors_of(build(name).fit(means), "index") for _ in range(2))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def altered(folder, change):
    """Changes the tensors of a saved identifier and makes its digest fit, as a hostile file would."""
    import safetensors.torch

    weights = folder / "identifier.safetensors"
    tensors = safetensors.torch.load_file(weights)
    change(tensors)
    safetensors.torch.save_file(tensors, weights)
    write_json(folder / "identifier.json", {**read_json(folder / "identifier.json"), "sha256": sha256(weights)})


@pytest.mark.parametrize(
    "name, key, change",
    [
        ("ivf", "cell_K", lambda t: t + 10**6),
        ("ivf", "cell_K", lambda t: t[:-1].clone()),
        ("ivf", "centre_LR", lambda t: t[:, :-1].clone()),
    ],
)
def test_structures_out_of_bounds_are_refused_even_with_a_digest_that_fits(people, name, key, change, tmp_path):
    folder = tmp_path / "identifier"
    people.identifier(build(name)).save(folder)
    altered(folder, lambda tensors: tensors.update({f"index.{key}": change(tensors[f"index.{key}"])}))
    with pytest.raises(InputError, match="build the index again"):
        Identifier.load(folder).identify(people.probes[:1])


def test_a_probe_near_which_nothing_is_found_is_nobody(people):
    def nobody(unit_BD, q):
        return np.full((len(unit_BD), q), -np.inf, np.float32), np.full((len(unit_BD), q), -1)

    parts = (people.partition.members(cluster) for cluster in range(people.partition.n_clusters))
    heads = Heads.pack(people.partition, [torch.from_numpy(people.means[members]) for members in parts])
    answer = QuickAnswers(IndexSearch(nobody, nobody, 400), people.partition, heads.by_identity())
    for count in (1, 3):
        identity, score, cluster = answer(np.ascontiguousarray(people.probes[:count], np.float32))
        assert (identity == -1).all() and (cluster == -1).all() and (score == -np.inf).all()


def test_the_answer_is_the_best_row_of_the_cluster_of_the_nearest_class_mean(people):
    random, near = np.random.default_rng(1), all_of(torch.from_numpy(people.means))
    rows_KD = normalise_rows(people.means + 0.3 * random.standard_normal(people.means.shape))
    parts = (people.partition.members(cluster) for cluster in range(people.partition.n_clusters))
    heads = Heads.pack(people.partition, [torch.from_numpy(rows_KD[members]) for members in parts])
    probes_BD = normalise_rows(random.standard_normal((200, 16)))
    nearest_BQ = np.argsort(-probes_BD @ people.means.T, axis=1)[:, :16]
    cosine_BQ = np.take_along_axis(probes_BD @ rows_KD.T, nearest_BQ, axis=1)
    elsewhere_BQ = people.partition.cluster_of[nearest_BQ] != people.partition.cluster_of[nearest_BQ[:, :1]]
    best_B = np.where(elsewhere_BQ, -2, cosine_BQ).argmax(1)
    assert (best_B != cosine_BQ.argmax(1)).sum() > 20  # else a row of another cluster is never the best
    expected_B = nearest_BQ[np.arange(200), best_B]
    answer = QuickAnswers(IndexSearch(near, near, 400, more=16), people.partition, heads.by_identity())
    for size in (1, 200):
        found = [answer(np.ascontiguousarray(probes_BD[i : i + size], np.float32)) for i in range(0, 200, size)]
        identity_B, score_B, cluster_B = map(np.concatenate, zip(*found, strict=True))
        assert identity_B.tolist() == expected_B.tolist()
        assert cluster_B.tolist() == people.partition.cluster_of[expected_B].tolist()
        np.testing.assert_allclose(score_B, cosine_BQ[np.arange(200), best_B], rtol=0, atol=rounding(16))


def test_a_corrupted_file_is_refused(people, tmp_path):
    folder = tmp_path / "identifier"
    people.identifier(build("ivf")).save(folder)
    content = bytearray((folder / "identifier.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "identifier.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="truncated or altered"):
        Identifier.load(folder)


@pytest.mark.parametrize(
    "description",
    [
        {"class": "os.system", "arguments": {}},
        {"class": "lightning_modules.indexes.base.ClassIndex", "arguments": {}},
        {"class": "lightning_modules.indexes.exact.torch", "arguments": {}},
        {"class": "lightning_modules.indexes.missing.Exact", "arguments": {}},
        {"class": "lightning_modules.indexes.ivf.InvertedFile", "arguments": {"n_probe": 0}},
        {"class": "lightning_modules.indexes.ivf.InvertedFile", "arguments": {"nothing": 1}},
        {"class": "lightning_modules.indexes.ivf.InvertedFile"},
    ],
)
def test_a_foreign_description_is_refused(description):
    with pytest.raises(InputError):
        restore(description, ClassIndex, {})


def test_without_a_description_there_is_no_index():
    assert restore(None, ClassIndex, {}) is None and describe(None) is None and tensors_of(None, "index") == {}
    assert Exact().open(torch.eye(3)) is None


@pytest.mark.parametrize("decision", [Argmax(), NearestMean()])
def test_an_identifier_says_whether_it_looks_at_all_class_means(people, decision):
    for index, uses in ((None, False), (Exact(), False), (InvertedFile(12), True)):
        assert people.identifier(index, decision).uses_index == uses


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: InvertedFile(exact_below=2), lambda: InvertedFile(n_probe=0), lambda: InvertedFile(n_cells=0),
        lambda: InvertedFile(wide_share=0.0),
        lambda: InvertedFile(encoding="int4"), lambda: InvertedFile(seed=-1),
    ],
)  # fmt: skip
def test_unusable_arguments_are_refused(wrong):
    with pytest.raises(InputError):
        wrong()


def test_an_index_does_not_change_the_class_means(people):
    means = torch.from_numpy(people.means.copy())
    for name in NAMES:
        build(name).fit(means).open(means)
    assert np.array_equal(means.numpy(), people.means)
