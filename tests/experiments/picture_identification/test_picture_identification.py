# SPDX-License-Identifier: MIT
"""Names for the people in pictures: drawn people, enrolled by prepare, found by MTCNN."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from datamodules.alignment import MTCNNAligner
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.extractors.random_projection import RandomProjectionExtractor
from datamodules.partitioners.base import Partition
from experiments.extraction.config import from_recipe
from experiments.picture_identification.contact_sheet import Answer, Gallery, draw_sheet
from experiments.picture_identification.identify import identify_pictures
from experiments.picture_identification.naming import folder_accuracy, name_faces, sheet_order, strangers
from experiments.picture_identification.probing import FacesDataset, Probes, crops, list_pictures, probe
from lightning_modules.decisions.nearest_mean import NearestMean
from lightning_modules.identifier import Identifier
from tests.experiments.picture_identification.drawn_faces import draw_person

PEOPLE = {"anna": 0, "bert": 2, "carl": 10}
EASY = [0.4, 0.4, 0.4]


def save(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three people enrolled with three pictures each, and an Identifier of their class means."""
    folder = tmp_path_factory.mktemp("world")
    for name, person in PEOPLE.items():
        for picture in range(3):
            save(draw_person(person, picture, side=120), folder / f"faces/{name}/{picture}.png")
    return folder


@pytest.fixture
def enrolled(world, call):
    if not (world / "set").exists():
        ended = call(
            "prepare", f"source.root={world / 'faces'}", "extractor=random_projection", "extractor.image_size=32",
            "alignment=mtcnn", f"alignment.thresholds={EASY}", "extraction.num_workers=0", f"out={world / 'set'}",
        )  # fmt: skip
        assert ended.code == 0, ended.err
    return EmbeddingSet.open(world / "set")


@pytest.fixture
def identifier(enrolled):
    z = torch.nn.functional.normalize(torch.from_numpy(np.asarray(enrolled.embeddings, np.float32)))
    means = torch.stack([z[torch.from_numpy(enrolled.labels == k)].mean(0) for k in range(enrolled.n_identities)])
    facts = {"extractor": enrolled.meta["extractor"], "data_path": str(enrolled.path)}
    partition = Partition(np.zeros(enrolled.n_identities, np.int32), 1)
    means = torch.nn.functional.normalize(means)
    return Identifier(enrolled.identities, means, partition, NearestMean(), provenance=facts)


@pytest.fixture
def probes_folder(tmp_path):
    for name, person in PEOPLE.items():
        save(draw_person(person, 7, side=120), tmp_path / f"probes/{name}/new.png")
    (tmp_path / "probes/anna/empty.jpg").write_bytes(b"")
    save(np.full((50, 50, 3), 127, np.uint8), tmp_path / "probes/carl/wall.png")
    return tmp_path / "probes"


def config(images, out, **changes):
    keys = {
        "images": str(images), "out": str(out), "extractor": None, "alignment": None, "gallery": None, "sheet": None,
        "sheet_faces": 60, "faces": "all", "max_side": 4096, "num_workers": 0, "device": "cpu", "overwrite": False,
    }  # fmt: skip
    return OmegaConf.create(keys | changes)


def test_everybody_gets_a_name_and_pictures_without_a_face_a_note(identifier, probes_folder, tmp_path, capsys):
    identify_pictures(config(probes_folder, tmp_path / "names.csv"), identifier)
    frame = pd.read_csv(tmp_path / "names.csv").set_index("file")
    for name in PEOPLE:
        row = frame.loc[f"{name}/new.png"]
        assert (
            row["identity"] == name
            and not row["unknown"]
            and row["face"] == 0
            and row["runner_up"] in set(PEOPLE) - {name}
        )
    assert frame.loc["anna/empty.jpg", "note"] == "empty file (0 bytes)"
    assert frame.loc["carl/wall.png", "note"] == "no face found"
    printed = capsys.readouterr().out
    assert "3 faces in 5 pictures, 0 unknown" in printed and "rank-1 60.00 % of 5 pictures" in printed
    assert Image.open(tmp_path / "names.png").size[0] > 500


def test_two_people_in_one_large_picture(identifier, tmp_path, capsys):
    (tmp_path / "beside").mkdir()
    pair = np.concatenate([draw_person(2, 7, side=800), draw_person(0, 7, side=800)], axis=1)
    save(pair, tmp_path / "pair.png")
    identify_pictures(config(tmp_path / "pair.png", tmp_path / "names.csv", max_side=400), identifier)
    frame = pd.read_csv(tmp_path / "names.csv").sort_values("left")
    assert frame["identity"].tolist() == ["bert", "anna"] and sorted(frame["face"]) == [0, 1]
    assert "left out" not in capsys.readouterr().out
    centres = (frame["left"] + frame["right"]).to_numpy() / 2
    np.testing.assert_allclose(centres, [400, 1200], atol=80)  # pixels of the picture, though it was shrunk fourfold


def test_below_the_threshold_is_unknown_and_the_best_answer_stays(identifier, probes_folder, tmp_path):
    identify_pictures(config(probes_folder, tmp_path / "names.csv"), replace(identifier, threshold=1.5))
    frame = pd.read_csv(tmp_path / "names.csv").dropna(subset=["score"])
    assert (frame["identity"] == "unknown").all() and frame["unknown"].all()
    assert frame["best"].tolist() == [file.split("/")[0] for file in frame["file"]]


def test_runner_up_is_the_next_nearest_class_mean(identifier):
    z = np.random.default_rng(0).normal(size=(20, identifier.dim)).astype(np.float32)
    boxes = np.zeros((20, 4), np.float32)
    frame = name_faces(identifier, Probes([f"{i:02d}.png" for i in range(20)], boxes, z, [], {}))
    cosine = z / np.linalg.norm(z, axis=1, keepdims=True) @ identifier.class_means_KD.numpy().T
    order = np.argsort(-cosine, axis=1)
    assert frame["best"].tolist() == [identifier.identities[i] for i in order[:, 0]]
    assert frame["runner_up"].tolist() == [identifier.identities[i] for i in order[:, 1]]
    np.testing.assert_allclose(frame["runner_up_cosine"].astype(float), np.sort(cosine, axis=1)[:, -2], atol=1e-5)


def test_no_face_anywhere_is_an_empty_answer(identifier, tmp_path):
    save(np.full((50, 50, 3), 127, np.uint8), tmp_path / "walls/a.png")
    identify_pictures(config(tmp_path / "walls", tmp_path / "names.csv"), identifier)
    assert pd.read_csv(tmp_path / "names.csv")["note"].tolist() == ["no face found"]


def test_the_sheet_shows_the_most_similar_original(enrolled, world, tmp_path):
    aligner = MTCNNAligner(32, thresholds=EASY)
    gallery = Gallery(enrolled, aligner)
    row = enrolled.files.index("bert/2.png")
    shown = gallery.best_face("bert", np.asarray(enrolled.embeddings[row], np.float32))
    expected = aligner.main_face(np.asarray(Image.open(world / "faces/bert/2.png"))).crop_SSC
    np.testing.assert_array_equal(shown, expected)
    copy = next(row for row, name in enumerate(enrolled.files) if name.startswith("bert/") and "#" in name)
    assert gallery.best_face("bert", np.asarray(enrolled.embeddings[copy], np.float32)) is not None
    assert gallery.best_face("nobody", np.ones(enrolled.dim)) is None


def test_enrolled_pictures_that_are_gone_cost_only_their_place_on_the_sheet(
    identifier, enrolled, probes_folder, tmp_path
):
    shutil.copytree(enrolled.path, tmp_path / "set")
    text = (tmp_path / "set/meta.json").read_text().replace("/faces", "/gone")
    (tmp_path / "set/meta.json").write_text(text)
    identify_pictures(config(probes_folder, tmp_path / "names.csv", gallery=str(tmp_path / "set")), identifier)
    assert pd.read_csv(tmp_path / "names.csv")["identity"].notna().sum() == 3


def test_the_recipe_may_be_in_the_identifier_instead(identifier, enrolled, probes_folder, tmp_path):
    facts = {"extractor": enrolled.meta["extractor"], "recipe": enrolled.meta["recipe"]}
    identify_pictures(config(probes_folder, tmp_path / "names.csv"), replace(identifier, provenance=facts))
    assert pd.read_csv(tmp_path / "names.csv")["identity"].notna().sum() == 3


def test_other_weights_than_those_of_the_enrolled_are_refused(identifier, probes_folder, tmp_path):
    node = OmegaConf.create(
        {"_target_": "datamodules.extractors.random_projection.RandomProjectionExtractor", "seed": 9}
    )
    with pytest.raises(InputError, match="that of the enrolled pictures"):
        identify_pictures(config(probes_folder, tmp_path / "names.csv", extractor=node), identifier)
    assert not (tmp_path / "names.csv").exists()


def test_without_a_recipe_the_extractor_must_be_named(identifier, probes_folder, tmp_path):
    with pytest.raises(InputError, match="extractor=NAME"):
        identify_pictures(config(probes_folder, tmp_path / "names.csv"), replace(identifier, provenance={}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": "nowhere"}, "no folder nowhere"),
        ({"sheet": __file__}, "exists"),
    ],
)
def test_bad_requests_are_refused(identifier, probes_folder, tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        identify_pictures(config(**{"images": probes_folder, "out": tmp_path / "names.csv", **change}), identifier)


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "../../secret", "arguments": {}},
        {"name": "dlib"},
        {"name": "random_projection", "arguments": {"_target_": "os.system"}},
        {"name": "random_projection", "arguments": {"command": "ls"}},
        "dlib",
        {"name": None, "arguments": {}},
    ],
)
def test_a_foreign_recipe_cannot_choose_what_is_run(entry):
    with pytest.raises(InputError, match="a recipe with extractor"):
        from_recipe({"extractor": entry}, "extractor")


def test_a_recipe_is_read_back():
    node = from_recipe({"extractor": {"name": "random_projection", "arguments": {"seed": 5}}}, "extractor")
    assert node.seed == 5 and node._target_.endswith("RandomProjectionExtractor")
    assert from_recipe({}, "alignment") is None and from_recipe({"alignment": None}, "alignment") is None


def test_pictures_are_found_in_folders_below_and_others_are_passed_over(tmp_path):
    for name in ("b.JPG", "x/a.png", "x/y/c.webp", "x/notes.txt", ".hidden.png", ".thumbs/d.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert list_pictures(tmp_path) == (tmp_path, ["b.JPG", "x/a.png", "x/y/c.webp"])
    assert list_pictures(tmp_path / "b.JPG") == (tmp_path, ["b.JPG"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="without pictures"):
        list_pictures(tmp_path / "empty")


def test_the_largest_face_comes_first_and_crops_are_found_again(tmp_path):
    small, large = draw_person(0, 7, side=120), draw_person(2, 7, side=240)
    canvas = np.full((288, 360, 3), 120, np.uint8)
    canvas[:144, :120], canvas[:, 120:] = small, large
    save(canvas, tmp_path / "a.png")
    aligner = MTCNNAligner(32, thresholds=EASY)
    pictures = FacesDataset(tmp_path, ["a.png"], aligner, 4096, main_only=False)
    found = probe(pictures, RandomProjectionExtractor(), num_workers=0)
    widths = found.boxes_F4[:, 2] - found.boxes_F4[:, 0]
    assert len(found.files) == 2 and widths[0] > 1.5 * widths[1] and found.numbers == [0, 1]
    shown = crops(pictures, found, [1, 0], num_workers=0)
    faces = aligner.faces(canvas)
    expected = {face.crop_SSC.tobytes(): face.box[2] - face.box[0] for face in faces}
    assert expected[shown[1].tobytes()] > 1.5 * expected[shown[0].tobytes()]
    main = FacesDataset(tmp_path, ["a.png"], aligner, 4096, main_only=True)
    single = probe(main, RandomProjectionExtractor(), num_workers=0)
    np.testing.assert_array_equal(single.boxes_F4, found.boxes_F4[:1])


def test_folder_accuracy_counts_a_missed_face_as_missed():
    frame = pd.DataFrame(
        {
            "file": ["anna/1", "anna/2", "x/bert/1", "x/bert/1", "zoe/1", "top"],
            "best": ["anna", np.nan, "bert", "anna", "anna", "anna"],
            "face": [0, np.nan, 0, 1, 0, 0],
        }
    )
    assert folder_accuracy(frame, ("anna", "bert")) == (2, 3)
    assert folder_accuracy(frame.iloc[4:], ("anna", "bert")) is None


def test_strangers_are_in_folders_named_after_nobody_enrolled():
    frame = pd.DataFrame({"file": ["anna/1", "zoe/1", "x/yan/2", "top"]})
    assert strangers(frame, ("anna", "bert")).tolist() == [False, True, True, False]
    assert not strangers(frame, ("bert",)).any()  # folders of holidays, say
    assert strangers(frame, ("bert",), left_out=("zoe",)).tolist() == [True, True, True, False]


def test_the_sheet_begins_with_named_strangers_and_goes_away_from_the_threshold_on_both_sides():
    faces = pd.DataFrame(
        {"score": [0.9, 0.1, 0.55, 0.45, 0.6, 0.7], "unknown": [False, True, False, True, False, False]}
    )
    stranger = pd.Series([False, True, False, False, False, True])
    order = sheet_order(faces, 0.5, stranger)
    assert order[0] == 5 and set(order[1:3]) == {2, 3} and set(order[3:5]) == {1, 4} and order[5] == 0
    assert sheet_order(faces, None, stranger & False).tolist()[:2] == [0, 1]


def test_strangers_and_folders_without_pictures_are_said(identifier, probes_folder, tmp_path, capsys):
    save(draw_person(17, 0, side=120), probes_folder / "zoe/1.png")
    (probes_folder / "notes").mkdir()
    (probes_folder / "notes/a.txt").write_text("text")
    (probes_folder / "nobody").mkdir()
    out = tmp_path / "new/folder/names.csv"
    identify_pictures(config(probes_folder, out), replace(identifier, threshold=-1.0))
    printed = capsys.readouterr().out
    assert "rank-1 60.00 % of 5 pictures" in printed
    assert "1 pictures in folders named after nobody enrolled (zoe)" in printed and "1 of their 1 faces" in printed
    assert "left out: notes (no picture)" in printed and "left out: nobody (empty)" in printed
    assert out.is_file() and out.with_suffix(".png").is_file() and "stranger" not in out.read_text()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_sheets_of_any_size_and_with_any_name(tmp_path, count):
    face = np.full((10, 10, 3), 200, np.uint8)
    name = "Zoë Ångström-Müller the Third of Somewhere"
    answers = [Answer(face, face if i % 2 else None, name, i > 1, 0.5, "f" * 200) for i in range(count)]
    draw_sheet(tmp_path / "sheet.png", answers, "caption")
    image = Image.open(tmp_path / "sheet.png")
    image.load()
    if count:
        assert image.getpixel((14, 44)) == (200, 200, 200)


def test_people_are_enrolled_from_pictures_as_the_others_were(identifier, enrolled, world, tmp_path, call):
    for picture in range(3):
        save(draw_person(17, picture, side=120), tmp_path / f"new/dora/{picture}.png")
        save(draw_person(0, picture, side=120), tmp_path / f"new/anna/{picture}.png")
    (tmp_path / "new/dora/empty.jpg").write_bytes(b"")
    (tmp_path / "new/texts").mkdir()
    (tmp_path / "new/texts/a.txt").write_text("text")
    facts = {"extractor": enrolled.meta["extractor"], "recipe": enrolled.meta["recipe"]}
    replace(identifier, provenance=facts).save(tmp_path / "identifier")

    def enrol(*more):
        return call("enrol", f"identifier={tmp_path / 'identifier'}", f"images={tmp_path / 'new'}", "num_workers=0",
                    f"out={tmp_path / 'out'}", *more)  # fmt: skip

    enrol().assert_refused("'anna'", "enrolled already with pictures that are not available", "remove=anna")
    enrol("identities=[ella]").assert_refused("'ella'", "anna, dora")
    enrol("identities=[dora]", "extractor=random_projection", "extractor.seed=9").assert_refused("of the enrolled")
    ended = enrol("identities=[dora]")
    assert ended.code == 0, ended.err
    assert "left out: texts (no picture)" in ended.out and "left out: anna" not in ended.out
    made = Identifier.load(tmp_path / "out")
    assert made.identities == (*identifier.identities, "dora")
    folder, names = list_pictures(tmp_path / "new/dora")
    pictures = FacesDataset(folder, names, MTCNNAligner(32, thresholds=EASY), 4096, main_only=False)
    found = probe(pictures, RandomProjectionExtractor(), num_workers=0)
    assert set(made.identify(found.embeddings_FD).identity) == {"dora"} and found.files
    (tmp_path / "new/zero/no.jpg").parent.mkdir()
    (tmp_path / "new/zero/no.jpg").write_bytes(b"")
    shutil.rmtree(tmp_path / "out")
    enrol("identities=[dora,zero]").assert_refused("'zero' without a usable picture")
