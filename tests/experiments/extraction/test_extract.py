# SPDX-License-Identifier: MIT
"""From pictures to an EmbeddingSet: right, whole or not at all, resumed, refused."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.alignment import Resize
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.extractors.base import Extractor
from datamodules.extractors.random_projection import RandomProjectionExtractor
from datamodules.images import decode
from datamodules.sources.base import apply_mark, groups_of, original_of
from datamodules.sources.image_folder import ImageFolder
from datamodules.splits import split_identities
from experiments.extraction.config import ExtractionConfig
from experiments.extraction.extract import extract

CPU = {"accelerator": "cpu", "devices": 1}
SIZE = 8
ROOT = Path(__file__).resolve().parents[3]


def pictures(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    for person, count in counts.items():
        (root / person).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
            Image.fromarray(pixels).save(root / person / f"{number}.png")
    return root


class Watched(Extractor):
    """The mean colour of each quarter of the picture; counts what it embeds and can fail after so many images."""

    def __init__(self, fail_after: int | None = None, weights: str = "1"):
        super().__init__(
            name="watched", embedding_dim=12, image_size=SIZE, channel_order="RGB", value_range=(0.0, 255.0)
        )
        self.fail_after, self.weights, self.embedded = fail_after, weights, 0

    def embed(self, x_BCHW):
        if self.fail_after is not None and self.embedded + len(x_BCHW) > self.fail_after:
            raise RuntimeError("killed")
        self.embedded += len(x_BCHW)
        return torch.nn.functional.adaptive_avg_pool2d(x_BCHW, 2).flatten(1)

    def weights_digest(self):
        return self.weights


def run(root, out, extractor=None, aligner=None, trainer=CPU, options=None, **settings):
    settings = ExtractionConfig(**{"batch_size": 3, "num_workers": 0, "shard_rows": 5, "dtype": "float32", **settings})
    return extract(
        ImageFolder(root, **(options or {})), extractor or Watched(), aligner or Resize(SIZE), out, settings, trainer
    )


def expected_embedding(root: Path, name: str) -> np.ndarray:
    pixels = decode((root / original_of(name)).read_bytes()).pixels_HWC
    pixels = apply_mark(pixels, name).astype(np.float64)
    return pixels.reshape(2, SIZE // 2, 2, SIZE // 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1).ravel()


def assert_right(made: EmbeddingSet, root: Path) -> None:
    for row, name in enumerate(made.files):
        assert made.identities[made.labels[row]] == name.split("/")[0]
        np.testing.assert_allclose(made.embeddings[row], expected_embedding(root, name), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_row_is_the_embedding_of_its_file(tmp_path, num_workers):
    root = pictures(tmp_path / "faces", {"anna": 6, "bert": 7, "carl": 5})
    made = run(root, tmp_path / "set", num_workers=num_workers)
    assert len(made) == 18 and made.identities == ("anna", "bert", "carl")
    assert_right(made, root)
    assert made.meta["extractor"] == Watched().fingerprint() and made.meta["copies"] == made.meta["rejected"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "set"]


def test_few_images_are_topped_up_and_copies_come_after_their_originals(tmp_path):
    root = pictures(tmp_path / "faces", {"anna": 1, "bert": 3, "carl": 6})
    made = run(root, tmp_path / "set")
    assert made.sample_counts().tolist() == [5, 5, 6] and made.meta["copies"] == 6
    assert [original_of(name) == name for name in made.files[:10]] == [True] + [False] * 4 + [True] * 3 + [False] * 2
    assert_right(made, root)


def test_copies_never_stand_on_both_sides_of_a_split(tmp_path):
    made = run(pictures(tmp_path / "faces", {"anna": 2, "bert": 3, "carl": 4, "dora": 9}), tmp_path / "set")
    for seed in range(5):
        splits = split_identities(made, seed=seed, groups_N=groups_of(made.files))
        originals = [
            {original_of(made.files[row]) for row in split.rows} for split in (splits.train, splits.val, splits.test)
        ]
        assert not (originals[0] & originals[1] or originals[0] & originals[2] or originals[1] & originals[2])


def test_topping_up_counts_only_images_that_could_be_used(tmp_path):
    root = pictures(tmp_path / "faces", {"anna": 5, "bert": 6})
    (root / "anna/0.png").write_bytes(b"")
    (root / "anna/1.png").write_bytes((root / "anna/1.png").read_bytes()[:60])
    made = run(root, tmp_path / "set")
    assert made.sample_counts().tolist() == [5, 6] and made.meta["copies"] == 2
    assert {original_of(name) for name in made.files[:5]} == {"anna/2.png", "anna/3.png", "anna/4.png"}


def test_what_cannot_be_used_is_listed_with_the_reason(tmp_path):
    root = pictures(tmp_path / "faces", {"anna": 6, "bert": 6, "carl": 1})
    (root / "anna/2.png").write_bytes(b"")
    (root / "carl/0.png").write_text("no picture, just, text")
    Image.new("RGB", (SIZE, SIZE)).save(root / "bert/3.png")  # black: its embedding is zero
    made = run(root, tmp_path / "set")
    rows = list(csv.reader((tmp_path / "set/rejected.csv").open()))
    assert rows[0] == ["file", "identity", "reason"]
    assert [(row[0], row[1]) for row in rows[1:]] == [
        ("anna/2.png", "anna"),
        ("bert/3.png", "bert"),
        ("carl/0.png", "carl"),
    ]
    assert [row[2] for row in rows[1:]] == [
        "empty file (0 bytes)",
        "embedding is all zero",
        "not an image of a known format",
    ]
    assert made.identities == ("anna", "bert") and made.meta["rejected"] == 3
    assert_right(made, root)


def test_numbers_that_float16_cannot_hold_are_rejected(tmp_path):
    class Huge(Watched):
        def embed(self, x_BCHW):
            z = super().embed(x_BCHW)
            return torch.where(z[:, :1] > 127, z * 1e6, z)

    root = pictures(tmp_path / "faces", {"anna": 8, "bert": 8})
    made = run(root, tmp_path / "set", Huge(), dtype="float16")
    reasons = {row[2] for row in list(csv.reader((tmp_path / "set/rejected.csv").open()))[1:]}
    assert reasons == {"embedding is not finite"} and 0 < made.meta["rejected"] < 16


def test_where_nothing_can_be_used_nothing_is_made(tmp_path):
    (tmp_path / "faces/anna").mkdir(parents=True)
    (tmp_path / "faces/anna/1.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="1 images, none usable .empty file"):
        run(tmp_path / "faces", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("fail_after", [0, 4, 11, 12, 17, 19])
def test_a_run_that_broke_off_loses_at_most_a_shard_and_ends_the_same(tmp_path, fail_after):
    root = pictures(tmp_path / "faces", {"anna": 9, "bert": 2, "carl": 7})  # 18 originals, 3 copies
    whole = contents(run(root, tmp_path / "whole").path)
    with pytest.raises(RuntimeError, match="killed"):
        run(root, tmp_path / "set", broken := Watched(fail_after=fail_after))
    assert not (tmp_path / "set").exists()
    run(root, tmp_path / "set", second := Watched())
    assert contents(tmp_path / "set") == whole
    assert broken.embedded + second.embedded - 21 < 5  # fewer images than a shard were embedded twice


def test_what_is_there_is_not_made_again(tmp_path):
    root = pictures(tmp_path / "faces", {"anna": 5})
    run(root, tmp_path / "set")
    run(root, tmp_path / "set", again := Watched())
    assert again.embedded == 0


@pytest.mark.parametrize("broken_off", [False, True])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"extractor": Watched(weights="2")}, "extractor watched-"),
        ({"aligner": Resize(SIZE, 0.5)}, "alignment Resize"),
        ({"dtype": "float16"}, "dtype"),
        ({"options": {"top_up_to": 0}}, "top_up_to"),
        ({"options": {"images_per_identity": 4}}, "images"),
    ],
)
def test_other_weights_or_settings_never_mix_with_what_is_there(tmp_path, broken_off, change, named):
    root = pictures(tmp_path / "faces", {"anna": 6, "bert": 6})
    if broken_off:
        with pytest.raises(RuntimeError):
            run(root, tmp_path / "set", Watched(fail_after=7))
    else:
        run(root, tmp_path / "set")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"made with {named}|had other pictures") as caught:
        run(root, tmp_path / "set", **change)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_two_runs_at_once_are_refused(tmp_path):
    class Nested(Watched):
        def embed(self, x_BCHW):
            run(root, tmp_path / "set")
            return super().embed(x_BCHW)

    root = pictures(tmp_path / "faces", {"anna": 6})
    with pytest.raises(InputError, match="in use by another process"):
        run(root, tmp_path / "set", Nested())


def test_a_folder_that_is_something_else_is_left_alone(tmp_path):
    root = pictures(tmp_path / "faces", {"anna": 6})
    (tmp_path / "set").mkdir()
    (tmp_path / "set/letter.txt").write_text("dear")
    with pytest.raises(InputError, match="name another out"):
        run(root, tmp_path / "set")
    assert (tmp_path / "set/letter.txt").read_text() == "dear"


def test_an_aligner_of_another_size_is_refused(tmp_path):
    with pytest.raises(InputError, match="alignment.image_size = 9"):
        run(pictures(tmp_path / "faces", {"anna": 1}), tmp_path / "set", aligner=Resize(9))


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"num_workers": -1}, {"shard_rows": 0}, {"dtype": "float64"}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(InputError, match=f"extraction.{next(iter(setting))}"):
        ExtractionConfig(**setting)


def test_a_reader_never_sees_a_half_written_set(tmp_path, monkeypatch):
    root = pictures(tmp_path / "faces", {"anna": 6})
    monkeypatch.setattr(
        "datamodules.extraction.assembling.write_json", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        run(root, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    monkeypatch.undo()
    assert len(run(root, tmp_path / "set", again := Watched())) == 6 and again.embedded == 0


COMMAND = [sys.executable, "-m", "experiments.prepare", "extractor=random_projection", "extractor.image_size=8"]


@pytest.mark.slow
def test_killed_by_the_system_in_the_middle(tmp_path):
    root = pictures(tmp_path / "faces", {f"p{k}": 40 for k in range(50)})
    arguments = [
        f"source.root={root}",
        "extraction.shard_rows=16",
        "extraction.num_workers=0",
        "extraction.batch_size=4",
    ]
    subprocess.run([*COMMAND, *arguments, f"out={tmp_path / 'whole'}"], cwd=ROOT, check=True, capture_output=True)
    shards = tmp_path / ".set.prepare" / "originals"
    for wanted in (3, 40):
        process = subprocess.Popen(
            [*COMMAND, *arguments, f"out={tmp_path / 'set'}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(list(shards.glob("shard_*.json"))) < wanted and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not (tmp_path / "set").exists()
    subprocess.run([*COMMAND, *arguments, f"out={tmp_path / 'set'}"], cwd=ROOT, check=True, capture_output=True)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert not (tmp_path / ".set.prepare").exists()


@pytest.mark.slow
def test_two_devices_give_what_one_gives(tmp_path):
    root = pictures(tmp_path / "faces", {"anna": 9, "bert": 2, "carl": 7})
    arguments = [
        f"source.root={root}",
        "extraction.shard_rows=4",
        "extraction.num_workers=0",
        "trainer.accelerator=cpu",
    ]
    for devices in (1, 2):
        subprocess.run(
            [*COMMAND, *arguments, f"trainer.devices={devices}", f"out={tmp_path / str(devices)}"],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_the_command_end_to_end(call, tmp_path):
    root = pictures(tmp_path / "faces", {"anna": 2, "bert": 6})
    (root / "bert/0.png").write_bytes(b"")
    arguments = [
        f"source.root={root}",
        "extractor=random_projection",
        "extraction.num_workers=0",
        f"out={tmp_path / 'set'}",
    ]
    ended = call("prepare", *arguments)
    assert ended.code == 0, ended.err
    for word in (
        "10 embeddings of 2 identities, 64-d float16",
        "3 of them are augmented copies",
        "1 images could not be used",
    ):
        assert word in ended.out
    made = EmbeddingSet.open(tmp_path / "set")
    assert made.meta["extractor"] == RandomProjectionExtractor().fingerprint()
    recipe = json.loads((tmp_path / "set/meta.json").read_text())["recipe"]
    assert (
        recipe["extractor"]["name"] == "random_projection" and recipe["extractor"]["arguments"]["embedding_dim"] == 64
    )
    pictures(root, {"carl": 5})
    ended = call("prepare", *arguments)
    assert "added to the set that was there: 1 identities, 5 embeddings" in ended.out, ended.err
    assert "added" not in call("prepare", *arguments).out
    call("prepare", *arguments, "extractor.seed=1").assert_refused("extractor random_projection-")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extractor=random_projection", "source.root=nowhere"], ["no folder nowhere"]),
        (["extractor=random_projection"], ["source.root"]),
        (["source.root=."], ["extractor"]),
        (["extractor=random_projection", "source.root=.", "extraction.batch=3"], ["extraction.batch"]),
        (["extractor=random_projection", "source.root=.", "source.identities=3"], ["identities"]),
        (["extractor=random_projection", "extractor.channel_order=GBR", "source.root=."], ["RGB or BGR"]),
        (["extractor=onnx", "source.root=."], ["extractor.weights=FILE"]),
        (["extractor=facenet", "extractor.weights=nowhere.pt", "source.root=."], ["nowhere.pt"]),
    ],
)
def test_bad_input_is_one_line(call, tmp_path, arguments, words):
    call("prepare", *arguments, f"out={tmp_path / 'set'}").assert_refused(*words)
    assert not list(tmp_path.iterdir())


def test_people_and_folders_that_were_left_out_are_listed(call, tmp_path):
    root = pictures(tmp_path / "faces", {"anna": 6, "bert": 6, "carl": 1, "dora": 1})
    pictures(root / "anna", {"2019": 2})
    pictures(root / "family", {"ella": 3})
    (root / "dora/0.png").write_bytes(b"")
    (root / "empty").mkdir()
    (root / "texts").mkdir()
    (root / "texts/a.txt").write_text("text")
    shutil.copy(root / "anna/0.png", root / "loose.png")
    ended = call(
        "prepare", f"source.root={root}", "extractor=random_projection", "extraction.num_workers=0",
        "source.min_images=1", f"out={tmp_path / 'new/folder/set'}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    said = {line.removeprefix("left out: ") for line in ended.out.splitlines() if line.startswith("left out: ")}
    outside = "pictures, not in the folder of a person"
    assert said == {
        f". (1 {outside})", f"anna/2019 (2 {outside})", "dora (no usable picture)", "empty (empty)",
        f"family/ella (3 {outside})", "texts (no picture)",
    }  # fmt: skip


def test_an_alignment_by_name_takes_the_size_of_the_extractor(call, tmp_path):
    root = pictures(tmp_path / "faces", {"anna": 6})
    ended = call(
        "prepare", f"source.root={root}", "extractor=random_projection", "alignment=prealigned",
        "alignment.fraction=0.5", "extraction.num_workers=0", f"out={tmp_path / 'set'}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert EmbeddingSet.open(tmp_path / "set").meta["alignment"] == "Resize(fraction=0.5, image_size=32)"
