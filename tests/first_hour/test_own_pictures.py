# SPDX-License-Identifier: MIT
"""README's sequence for own pictures, with names of people, files and folders as people and folders are called."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.embedding_set import EmbeddingSet
from lightning_modules.identifier import Identifier
from tests.experiments.picture_identification.drawn_faces import draw_person

PEOPLE = ["Zoë Ångström", "李 小龍", "Conan O'Brien", "Jean [le] Petit", "Ana, María", "Müller (jun.)", "№ 5 = five%"]
NEWCOMERS = ["Łukasz {II}", "Никита $"]
CHEAP = ["extractor=random_projection", "alignment=prealigned"]
TRAINING = ["n_subnets=2", "init=prototype", "trainer.batch_size=auto", "trainer.max_epochs=2", "trainer.threads=1",
            "trainer.accelerator=cpu", "logger=none"]  # fmt: skip


def draw(folder: Path, name: str, pictures: range) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        person = (PEOPLE + NEWCOMERS).index(name)
        Image.fromarray(draw_person(person, picture, side=60)).save(folder / name / f"é 'n' [{picture}].png")


def at(key: str, path: Path) -> str:
    """`key=path` with the path in quotes for Hydra."""
    return f'{key}="{path}"'


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "Zoë's [own] pictures, 写真"
    for name in PEOPLE:
        draw(home / "faces", name, range(6))
        draw(home / "probes", name, range(8, 9))
    (home / "faces/empty ∅").mkdir()
    return home


def test_the_sequence_of_the_readme(home, call, monkeypatch):
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)  # has its tests

    def done(command: str, *arguments: str) -> str:
        ended = call(command, *arguments)
        assert ended.code == 0, ended.err
        return ended.out

    faces_set, identifier = home / "faces set", home / "identifier (1)"
    prepare = [at("source.root", home / "faces"), *CHEAP, "extraction.num_workers=0", at("out", faces_set)]
    assert "left out: empty ∅ (empty)" in done("prepare", *prepare)
    data = ["data=embedding_set", at("data.path", faces_set), at("runs_dir", home / "runs")]
    done("compare", *data, *TRAINING, "seeds=1", "scenarios=[knn,clustered_nearest]", 'name="my faces"')
    assert len(rows(home / "runs/my faces/results.csv")) == 2

    train = [*data, *TRAINING, "split.held_out=0.3", "fpir=0.4", at("out", identifier)]
    out = done("train", *train)
    known = Identifier.load(identifier)
    assert set(known.identities) == set(PEOPLE)  # the held-out people, too
    assert "2 held-out people are enrolled too" in out and known.identities[-1] in out

    out = done("identify", at("images", home / "probes"), at("identifier", identifier), at("out", home / "names.csv"),
               "num_workers=0")  # fmt: skip
    answers = rows(home / "names.csv")
    assert {row["file"].split("/")[0] for row in answers} == set(PEOPLE)
    assert {row["best"] for row in answers} <= set(PEOPLE) and "of 7 pictures in folders" in out
    assert (home / "names.png").is_file()

    for name in NEWCOMERS:
        draw(home / "newcomers", name, range(3))
    draw(home / "newcomers", PEOPLE[0], range(8))  # somebody old, with pictures that are known and two that are not
    enrol = [at("images", home / "newcomers"), "num_workers=0", "test=false"]
    out = done("enrol", at("identifier", identifier), *enrol, at("out", home / "identifier 2"))
    assert f"added: {', '.join(sorted(NEWCOMERS))}\nchanged: {PEOPLE[0]}\n" in out
    second = Identifier.load(home / "identifier 2")
    assert set(second.identities) == {*PEOPLE, *NEWCOMERS}

    move = f"move=\"{PEOPLE[2]}/é 'n' [0].png\""
    done("enrol", at("identifier", identifier), move, f'to="{PEOPLE[3]}"', at("out", home / "identifier 3"))
    moved = Identifier.load(home / "identifier 3").provenance["enrolment"][-1]
    assert set(moved["added"]) == {PEOPLE[2], PEOPLE[3]} and moved["removed"] == []

    draw(home / "faces", NEWCOMERS[0], range(5))
    assert "added to the set that was there: 1 identities, 5 embeddings" in done("prepare", *prepare)
    data_now = EmbeddingSet.open(faces_set)
    assert set(data_now.identities) == {*PEOPLE, NEWCOMERS[0]} and np.isfinite(data_now.embeddings).all()
    done("train", *train, "name=again", "overwrite=true")
    assert NEWCOMERS[0] in Identifier.load(identifier).identities

    done("identify", at("identifier", home / "identifier 2"), at("embeddings", faces_set), "index=ivf",
         at("out", home / "again.csv"))  # fmt: skip
    assert [row["file"] for row in rows(home / "again.csv")] == list(data_now.files)
    command = json.loads((home / "runs/again/manifest.json").read_text(encoding="utf-8"))["provenance"]["command"]
    assert "scenario" not in command and command.startswith("python -m experiments.train ")


def test_the_export_keeps_the_names(home, call):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    call("prepare", at("source.root", home / "faces"), *CHEAP, "extraction.num_workers=0", at("out", home / "set"))
    train = ["data=embedding_set", at("data.path", home / "set"), at("runs_dir", home / "runs"), "scenario=knn"]
    assert call("train", *train, "logger=none", at("out", home / "identifier")).code == 0
    ended = call("export", at("identifier", home / "identifier"), at("out", home / "people é.onnx"))
    assert ended.code == 0, ended.err
    session = runtime.InferenceSession(str(home / "people é.onnx"))
    assert set(json.loads(session.get_modelmeta().custom_metadata_map["identities"])) == set(PEOPLE)
