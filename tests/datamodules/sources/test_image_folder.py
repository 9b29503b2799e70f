# SPDX-License-Identifier: MIT
"""Folders of images in the two layouts, and folders that are neither."""

import os

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import InputError
from datamodules.images import RejectedImage, decode
from datamodules.sources.image_folder import ImageFolder


def put(root, *names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path, "PNG")
    return root


def test_one_folder_per_identity_in_alphabetical_order(tmp_path):
    listing = ImageFolder(put(tmp_path, "zoe/b.jpg", "anna/x.JPG", "zoe/a.png")).listing()
    assert listing.identities == ("anna", "zoe")
    assert listing.names.tolist() == ["anna/x.JPG", "zoe/a.png", "zoe/b.jpg"]
    assert listing.labels.tolist() == [0, 1, 1]


def test_train_val_test_layout_joins_the_images_of_a_person(tmp_path):
    root = put(tmp_path, "train/anna/1.jpg", "val/anna/1.jpg", "test/bert/1.jpg", "train/bert/2.jpg")
    assert ImageFolder(root).listing().names.tolist() == [
        "train/anna/1.jpg", "val/anna/1.jpg", "train/bert/2.jpg", "test/bert/1.jpg",
    ]  # fmt: skip
    assert ImageFolder(root, parts=["train"]).listing().names.tolist() == ["train/anna/1.jpg", "train/bert/2.jpg"]


def test_people_called_train_and_test_are_people(tmp_path):
    assert ImageFolder(put(tmp_path, "train/1.jpg", "test/1.jpg")).listing().identities == ("test", "train")


def test_parts_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match="without val"):
        ImageFolder(put(tmp_path, "train/anna/1.jpg"), parts=["train", "val"]).listing()


def test_what_is_no_image_is_passed_over_but_damaged_images_are_listed(tmp_path):
    root = put(tmp_path, "anna/1.jpg", "anna/no_suffix", "anna/.hidden.jpg")
    (root / "anna/notes.txt").write_text("not a picture")
    (root / "anna/broken.jpg").write_bytes(b"")
    (root / "anna/heic.HEIC").write_bytes(b"")
    (root / "bert").mkdir()
    os.mkfifo(root / "anna/pipe")
    listing = ImageFolder(root).listing()
    assert listing.names.tolist() == ["anna/1.jpg", "anna/broken.jpg", "anna/heic.HEIC", "anna/no_suffix"]


def test_links_are_followed_and_broken_ones_are_listed_to_be_rejected(tmp_path):
    put(tmp_path / "real", "x/1.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/anna").symlink_to(tmp_path / "real/x")
    (tmp_path / "real/x/2.jpg").symlink_to(tmp_path / "gone.jpg")
    source = ImageFolder(tmp_path / "set")
    assert source.listing().names.tolist() == ["anna/1.jpg", "anna/2.jpg"]
    with pytest.raises(RejectedImage, match="no such file"):
        source.read("anna/2.jpg")


def test_reading_gives_the_bytes_of_the_file(tmp_path):
    source = ImageFolder(put(tmp_path, "anna/1.jpg", "anna/2.jpg"))
    np.testing.assert_array_equal(decode(source.read("anna/2.jpg")).pixels_HWC[0, 0], [1, 0, 0])


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "anna/../../secret.jpg"])
def test_names_cannot_lead_out_of_the_folder(tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    with pytest.raises(RejectedImage, match="leads out"):
        ImageFolder(put(tmp_path / "root", "anna/1.jpg")).read(name)


@pytest.mark.parametrize("content", [None, "", "pictures at the top"])
def test_folders_without_identities_are_refused(tmp_path, content):
    root = tmp_path / "root"
    if content is not None:
        root.mkdir()
    if content:
        put(root, "1.jpg")
    with pytest.raises(InputError, match="sub-folder"):
        ImageFolder(root).listing()


@pytest.mark.parametrize("name", ["anna/a\nb.jpg", "an\rna/1.jpg", "anna/1.jpg#flip", os.fsdecode(b"anna/\xff.jpg")])
def test_names_that_do_not_fit_on_a_line_are_refused(tmp_path, name):
    root = put(tmp_path, "anna/1.jpg")
    path = root / name
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (2, 2)).save(path, "PNG")
    with pytest.raises(InputError, match="rename it"):
        ImageFolder(root).listing()


def test_the_same_folder_has_the_same_digest_until_it_changes(tmp_path):
    root = put(tmp_path, "anna/1.jpg", "bert/1.jpg")
    before = ImageFolder(root).listing().digest()
    assert ImageFolder(root).listing().digest() == before
    put(root, "bert/2.jpg")
    assert ImageFolder(root).listing().digest() != before
