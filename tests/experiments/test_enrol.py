# SPDX-License-Identifier: MIT
"""experiments.enrol and experiments.export as a user calls them."""

import json
import shutil

import numpy as np
import pytest
import torch

from datamodules.embedding_set import EmbeddingSet
from experiments.enrolment.enrol import accuracy
from experiments.enrolment.newcomers import Newcomers
from experiments.enrolment.original import open_original
from experiments.enrolment.retraining import check_retrainable, retrain
from lightning_modules.identifier import Identifier


@pytest.fixture(scope="module")
def world(tmp_path_factory, set_folder, call):
    """An identifier of the toy set, and a set of three people whom it does not know."""
    folder = tmp_path_factory.mktemp("enrol")
    ended = call(
        "train", "data=embedding_set", f"data.path={set_folder}", "n_subnets=2", "logger=none", "init=prototype",
        "trainer.accelerator=cpu", "trainer.max_epochs=3", "trainer.batch_size=16", f"out={folder / 'identifier'}",
        f"runs_dir={folder / 'runs'}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    random = np.random.default_rng(5)
    labels = np.repeat(np.arange(3), (6, 1, 2))
    rows = (random.standard_normal((3, 8))[labels] + 0.1 * random.standard_normal((9, 8))).astype(np.float32)
    EmbeddingSet.write(folder / "new", rows, labels, ["anna", "bert", "carl"])
    return folder


@pytest.fixture
def enrol(world, call, tmp_path):
    """Calls the command; out is `<tmp_path>/out`."""
    return lambda *more: call("enrol", f"identifier={world / 'identifier'}", f"out={tmp_path / 'out'}", *more)


def test_adding_a_set_writes_a_new_identifier_and_says_how_accurate_both_are(enrol, world, tmp_path):
    ended = enrol(f"embeddings={world / 'new'}")
    assert ended.code == 0, ended.err
    made, old = Identifier.load(tmp_path / "out"), Identifier.load(world / "identifier")
    assert made.identities == (*old.identities, "anna", "bert", "carl")
    original, new = open_original(old), EmbeddingSet.open(world / "new")
    tests = original.of(original.splits.test, old)
    line = next(line for line in ended.out.splitlines() if "test pictures of the enrolled" in line)
    before, after = (accuracy(one, original.embedding_set.embeddings, tests) for one in (old, made))
    assert str(len(tests)) in line and f"{before:.2f}" in line and f"{after:.2f}" in line
    line = next(line for line in ended.out.splitlines() if "kept pictures of the added" in line)
    assert " 2 " in line and "100.00" in line  # one of anna's six, one of carl's two, none of bert's single one
    assert made.identify(new.embeddings).identity == tuple(new.identities[label] for label in new.labels)
    assert made.provenance["enrolment"] == [
        {"removed": [], "added": ["anna", "bert", "carl"], "pictures": {"anna": 5, "bert": 1, "carl": 1}}
    ]


def test_kept_pictures_are_in_no_class_mean(world):
    new = EmbeddingSet.open(world / "new")
    kept, everything = Newcomers.split(new, None, test=True), Newcomers.split(new, None, test=False)
    used = np.concatenate([kept.train.rows, kept.val.rows])
    assert sorted([*used, *kept.test.rows]) == list(range(9)) and len(kept.test) == 2
    z = new.embeddings / np.linalg.norm(new.embeddings, axis=1, keepdims=True)
    for newcomers, rows in ((kept, used), (everything, np.arange(9))):
        means = np.stack([z[rows[new.labels[rows] == label]].mean(0) for label in range(3)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        np.testing.assert_allclose(newcomers.class_means(), means, atol=1e-6)


def test_some_are_added_and_some_removed_and_the_identifier_is_replaced(world, call, tmp_path):
    shutil.copytree(world / "identifier", tmp_path / "mine")
    ended = call(
        "enrol", f"identifier={tmp_path / 'mine'}", f"embeddings={world / 'new'}", "identities=[carl]",
        "remove=[person 003,person 007]", "overwrite=true",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    made = Identifier.load(tmp_path / "mine")
    assert set(made.identities) == ({f"person {i:03d}" for i in range(16)} | {"carl"}) - {"person 003", "person 007"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_a_person_is_put_in_place_of_the_old_one(enrol, set_folder, tmp_path):
    ended = enrol(f"embeddings={set_folder}", "identities=[person 005]", "remove=person 005")
    assert ended.code == 0, ended.err
    assert Identifier.load(tmp_path / "out").identities[-1] == "person 005"


def test_nothing_to_test_on_is_said(enrol, world, tmp_path):
    shutil.copytree(world / "identifier", tmp_path / "mine")
    path = tmp_path / "mine/identifier.json"
    path.write_text(path.read_text().replace('"data_path": "', '"data_path": "/gone'))
    ended = enrol(f"identifier={tmp_path / 'mine'}", f"embeddings={world / 'new'}", "identities=[bert]")
    assert ended.code == 0, ended.err
    assert "nothing to test the enrolled on: the data it was trained on are no longer in /gone" in ended.out
    assert "nothing to test the added on" in ended.out


def test_training_a_cluster_anew_with_the_same_people_gives_the_same_weights(world, tmp_path):
    identifier = Identifier.load(world / "identifier")
    original = open_original(identifier)
    recipe = check_retrainable(identifier, original)
    for cluster in range(2):
        rows = retrain(identifier, cluster, recipe, original, None, str(tmp_path)).rows()
        heads = identifier.heads
        torch.testing.assert_close(rows, heads.rows_SD[heads.starts[cluster] : heads.starts[cluster + 1]])


def test_only_the_sub_network_that_changed_is_trained_anew(enrol, world, tmp_path):
    ended = enrol(f"embeddings={world / 'new'}", "identities=[anna]", "retrain=true")
    assert ended.code == 0, ended.err
    made, old = Identifier.load(tmp_path / "out"), Identifier.load(world / "identifier")
    changed = made.partition.cluster_of[-1]
    assert ended.out.count("trained anew") == 1 and f"cluster {changed} with" in ended.out
    for cluster in range(2):
        was, now = (one.heads.rows_SD[one.heads.starts[cluster] : one.heads.starts[cluster + 1]] for one in (old, made))
        assert torch.equal(was, now[: len(was)]) == (cluster != changed)


def test_people_added_earlier_train_on_their_class_mean_and_it_is_said(enrol, world, call, tmp_path, caplog):
    assert enrol(f"embeddings={world / 'new'}", "identities=[anna]").code == 0
    ended = call(
        "enrol", f"identifier={tmp_path / 'out'}", "remove=person 000", f"out={tmp_path / 'again'}", "retrain=true"
    )
    assert ended.code == 0, ended.err
    in_cluster = Identifier.load(tmp_path / "again").partition.cluster_of
    removed_from = Identifier.load(world / "identifier").partition.cluster_of[0]
    assert ("class mean alone" in caplog.text) == (in_cluster[-1] == removed_from)


def test_a_decision_that_is_fitted_to_the_people_is_fitted_again(world, set_folder, call, tmp_path):
    ended = call(
        "train", "data=embedding_set", f"data.path={set_folder}", "n_subnets=2", "logger=none", "init=prototype",
        "scenario=clustered_fused", "trainer.accelerator=cpu", "trainer.max_epochs=1", f"out={tmp_path / 'fused'}",
        f"runs_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    ended = call(
        "enrol", f"identifier={tmp_path / 'fused'}", f"embeddings={world / 'new'}", "remove=person 002",
        f"out={tmp_path / 'out'}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    made, new = Identifier.load(tmp_path / "out"), EmbeddingSet.open(world / "new")
    assert made.decision.needs_fit and "person 002" not in made.identities
    assert made.identify(new.embeddings).identity == tuple(new.identities[label] for label in new.labels)
    path = tmp_path / "fused/identifier.json"
    path.write_text(path.read_text().replace('"data_path": "', '"data_path": "/gone'))
    refused = call("enrol", f"identifier={tmp_path / 'fused'}", "remove=person 002", f"out={tmp_path / 'again'}")
    refused.assert_refused("/gone", "fit the decision again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["none of embeddings=, images=, remove=, move="]),
        (["embeddings=NEW", "images=NEW"], ["both embeddings= and images="]),
        (["remove=person 099"], ["'person 099'", "not enrolled", "person 009"]),
        (["remove=[]"], ["remove = []"]),
        (["remove=[a,a]"], ["each name once"]),
        (["identities=[anna]", "remove=person 000"], ["identities= alone"]),
        (["embeddings=NEW", "identities=[anne]"], ["'anne'", "anna"]),
        (["embeddings=TOY"], ["enrolled already with all of these pictures"]),
        (["move=a/1.png"], ["move=a/1.png with to=None"]),
        (["move=a/1.png", "to=x"], ["no picture 'a/1.png'"]),
        (["embeddings=OTHER_DIM"], ["dimension 5", "8"]),
        (["embeddings=OTHER_EXTRACTOR"], ["network-2", "network-1"]),
        (["embeddings=/nowhere"], ["/nowhere"]),
        (["images=/nowhere"], ["/nowhere"]),
        (["embeddings=NEW", "out=NEW"], ["exists"]),
        (["embeddings=NEW", "identifier=/nowhere"], ["/nowhere"]),
        (["embeddings=NEW", "retrain=true", "identifier=UNTRAINED"], ["how it was trained"]),
        (["embeddings=NEW", "retrain=true", "identifier=FOREIGN"], ["os.system", "configs/loss"]),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(enrol, world, set_folder, tmp_path, arguments, words):
    random = np.random.default_rng(0)
    EmbeddingSet.write(tmp_path / "dim", random.normal(size=(2, 5)).astype("float32"), np.array([0, 1]), ["x", "y"])
    EmbeddingSet.write(
        tmp_path / "extractor", random.normal(size=(1, 8)).astype("float32"), np.array([0]), ["x"],
        extractor="network-2",
    )  # fmt: skip
    for name, change in {
        "stated": lambda facts: facts["provenance"].update(extractor="network-1"),
        "untrained": lambda facts: facts["provenance"].pop("training"),
        "foreign": lambda facts: facts["provenance"]["training"]["loss"].update(_target_="os.system"),
    }.items():
        shutil.copytree(world / "identifier", tmp_path / name)
        facts = json.loads((tmp_path / name / "identifier.json").read_text())
        change(facts)
        (tmp_path / name / "identifier.json").write_text(json.dumps(facts))
    places = {
        "NEW": world / "new", "TOY": set_folder, "OTHER_DIM": tmp_path / "dim", "UNTRAINED": tmp_path / "untrained",
        "FOREIGN": tmp_path / "foreign", "OTHER_EXTRACTOR": tmp_path / "extractor",
    }  # fmt: skip
    if "embeddings=OTHER_EXTRACTOR" in arguments:
        arguments = [f"identifier={tmp_path / 'stated'}", *arguments]
    before = sorted(tmp_path.iterdir())
    ended = enrol(*("=".join([key, str(places.get(value, value))]) for key, value in (a.split("=") for a in arguments)))
    ended.assert_refused(*words)
    assert sorted(tmp_path.iterdir()) == before


def test_export_writes_a_file_that_answers_the_same(world, call, tmp_path):
    pytest.importorskip("onnxruntime")
    ended = call("export", f"identifier={world / 'identifier'}", f"out={tmp_path / 'a.onnx'}")
    assert ended.code == 0 and "0 of 256 probes are answered otherwise" in " ".join(ended.out.split()), ended.err
    refused = call("export", f"identifier={world / 'identifier'}", f"out={tmp_path / 'a.onnx'}")
    refused.assert_refused("exists", "overwrite=true")
    again = call("export", f"identifier={world / 'identifier'}", f"out={tmp_path / 'new/folder/a.onnx'}")
    assert again.code == 0 and (tmp_path / "new/folder/a.onnx").is_file(), again.err


def test_held_out_people_whom_a_head_cannot_take_are_named(call, quick, set_folder, tmp_path):
    ended = call(
        "train", *quick, f"runs_dir={tmp_path}", "name=other", "head=projected", "head.hidden=4",
        "split.held_out=0.2", "fpir=0.1",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    line = next(line for line in ended.out.splitlines() if line.startswith("left out: 3 held-out people"))
    known = Identifier.load(tmp_path / "other/identifier").identities
    assert {name for name in (f"person {i:03d}" for i in range(16)) if name in line}.isdisjoint(known)
    assert len(known) == 13


def mean_of(*rows: np.ndarray) -> np.ndarray:
    z = np.concatenate(rows)
    mean = (z / np.linalg.norm(z, axis=1, keepdims=True)).mean(0)
    return mean / np.linalg.norm(mean)


def used(original, name: str) -> np.ndarray:
    label = original.names.index(name)
    splits = (original.splits.train, original.splits.val)
    return np.concatenate([original.embedding_set.embeddings[one.rows[one.labels == label]] for one in splits])


@pytest.fixture
def old_and_new(set_folder, tmp_path):
    """All pictures of two enrolled people, two more of one of them, and somebody new."""
    data, random = EmbeddingSet.open(set_folder), np.random.default_rng(3)
    old = [data.embeddings[data.labels == label] for label in (4, 5)]
    more, dora = old[1][:2] + 0.1 * random.standard_normal((2, 8)).astype(np.float32), random.standard_normal((3, 8))
    rows = np.concatenate([*old, more, dora.astype(np.float32)])
    labels = np.repeat([0, 1, 1, 2], [len(old[0]), len(old[1]), 2, 3])
    EmbeddingSet.write(tmp_path / "both", rows, labels, ["person 004", "person 005", "dora"])
    return tmp_path / "both", more, dora


def test_a_set_of_old_and_new_people_adds_what_is_new(enrol, world, old_and_new, tmp_path):
    folder, more, dora = old_and_new
    ended = enrol(f"embeddings={folder}", "test=false")
    assert ended.code == 0, ended.err
    assert "added: dora\nchanged: person 005\n" in ended.out
    made, old = Identifier.load(tmp_path / "out"), Identifier.load(world / "identifier")
    assert made.identities == (*old.identities, "dora")
    expected = old.class_means_KD.numpy().copy()
    expected[5] = mean_of(used(open_original(old), "person 005"), more)
    np.testing.assert_allclose(made.class_means_KD, [*expected, mean_of(dora)], atol=1e-5)
    place = made.heads.identity_S.tolist()
    rows = made.heads.rows_SD / made.heads.rows_SD.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(rows[place.index(5)], expected[5], atol=1e-5)
    kept = [k for k in range(16) if k != 5]
    before = old.heads.rows_SD[[old.heads.identity_S.tolist().index(k) for k in kept]]
    torch.testing.assert_close(made.heads.rows_SD[[place.index(k) for k in kept]], before)


def test_more_pictures_of_somebody_enrolled_later_weigh_as_much_as_the_earlier(enrol, world, call, tmp_path):
    assert enrol(f"embeddings={world / 'new'}", "identities=[anna]", "test=false").code == 0
    random = np.random.default_rng(8)
    more = random.standard_normal((2, 8)).astype(np.float32)
    EmbeddingSet.write(tmp_path / "more", more, np.zeros(2, int), ["anna"])
    ended = call(
        "enrol", f"identifier={tmp_path / 'out'}", f"embeddings={tmp_path / 'more'}", "test=false",
        f"out={tmp_path / 'again'}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    once, twice = Identifier.load(tmp_path / "out"), Identifier.load(tmp_path / "again")
    expected = mean_of(np.repeat(once.class_means_KD[-1:].numpy(), 6, axis=0), more)
    np.testing.assert_allclose(twice.class_means_KD[-1], expected, atol=1e-5)
    assert twice.provenance["enrolment"][-1]["pictures"] == {"anna": 8}


@pytest.mark.parametrize("to", ["person 001", "nobody yet"])
def test_a_picture_moves_from_one_person_to_another(world, call, set_folder, tmp_path, to):
    data = EmbeddingSet.open(set_folder)
    files = [f"{data.identities[label]}/{row}.png" for row, label in enumerate(data.labels)]
    EmbeddingSet.write(tmp_path / "set", np.asarray(data.embeddings), data.labels, data.identities, files)
    ended = call(
        "train", "data=embedding_set", f"data.path={tmp_path / 'set'}", "scenario=knn", "logger=none",
        f"out={tmp_path / 'identifier'}", f"runs_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    before = Identifier.load(tmp_path / "identifier")
    original = open_original(before)
    row = int(original.splits.train.rows[original.splits.train.labels == 0][0])
    ended = call(
        "enrol", f"identifier={tmp_path / 'identifier'}", f"move={files[row]}", f"to={to}", f"out={tmp_path / 'out'}",
        "retrain=false",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    made, moved = Identifier.load(tmp_path / "out"), data.embeddings[[row]]
    place = made.identities.index(to)
    own = [used(original, to)] if to in original.names else []
    np.testing.assert_allclose(made.class_means_KD[place], mean_of(*own, moved), atol=1e-5)
    left = used(original, "person 000")
    left = left[(left != moved).any(axis=1)]
    np.testing.assert_allclose(made.class_means_KD[0], mean_of(left), atol=1e-5)
    assert set(made.identities) == {*before.identities, to}


def test_a_sub_network_of_somebody_with_new_pictures_is_trained_anew(enrol, world, old_and_new, tmp_path):
    ended = enrol(f"embeddings={old_and_new[0]}", "identities=[person 005]", "retrain=true")
    assert ended.code == 0, ended.err
    home = Identifier.load(tmp_path / "out").partition.cluster_of[5]
    assert ended.out.count("trained anew") == 1 and f"cluster {home} with" in ended.out


def test_train_replaces_an_identifier_only_if_told_and_nothing_else_ever(call, quick, tmp_path):
    asked = [*quick, "scenario=knn", f"runs_dir={tmp_path}", f"out={tmp_path / 'identifier'}"]
    assert call("train", *asked).code == 0
    call("train", *asked, "seed=1", "name=b").assert_refused("exists", "overwrite=true")
    assert call("train", *asked, "seed=1", "name=b", "overwrite=true").code == 0
    assert Identifier.load(tmp_path / "identifier").provenance["split"]["seed"] == 1
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/a.txt").write_text("dear")
    call("train", *asked, "overwrite=true", f"out={tmp_path / 'letters'}").assert_refused("is no Identifier")
    assert (tmp_path / "letters/a.txt").read_text() == "dear"
