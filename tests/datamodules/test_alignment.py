# SPDX-License-Identifier: MIT
"""Crops: where points land, which face is taken, and MTCNN on a drawn face."""

import numpy as np
import pytest
from facenet_pytorch import extract_face
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from datamodules.alignment import (
    ARCFACE_TEMPLATE,
    Aligner,
    Face,
    MTCNNAligner,
    Resize,
    crop_to_template,
    similarity_transform,
)
from datamodules.errors import InputError
from datamodules.images import RejectedImage


def similarity(degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.deg2rad(degrees)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.hstack([rotation, np.array(shift)[:, None]])


@settings(max_examples=50, deadline=None)
@given(st.floats(-180, 180), st.floats(0.05, 20), st.floats(-500, 500), st.floats(-500, 500))
def test_a_similarity_is_found_again(degrees, scale, x, y):
    matrix = similarity(degrees, scale, (x, y))
    moved = ARCFACE_TEMPLATE @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(similarity_transform(ARCFACE_TEMPLATE, moved), matrix, atol=1e-7 * (1 + abs(x) + abs(y)))


def test_of_all_similarities_the_nearest_is_taken():
    # An independent answer: linear least squares over (a, b, shift x, shift y).
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(5, 2)) * 50, generator.normal(size=(5, 2)) * 50
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, shift_x, shift_y = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    np.testing.assert_allclose(similarity_transform(source, target), [[a, -b, shift_x], [b, a, shift_y]], atol=1e-9)


def test_no_reflection_even_where_it_would_fit_better():
    mirrored = ARCFACE_TEMPLATE * [-1, 1]
    assert np.linalg.det(similarity_transform(mirrored, ARCFACE_TEMPLATE)[:, :2]) > 0


def test_landmarks_in_one_place_are_rejected():
    with pytest.raises(RejectedImage, match="coincide"):
        similarity_transform(np.ones((5, 2)), ARCFACE_TEMPLATE)


def dots(points: np.ndarray, size: int, radius: float) -> np.ndarray:
    """White discs with soft edges at points (x, y), whose centres of mass are those points."""
    y, x = np.mgrid[:size, :size]
    image = np.zeros((size, size))
    for px, py in points:
        image = np.maximum(image, np.clip(radius - np.hypot(x - px, y - py) + 0.5, 0, 1))
    return np.repeat((image * 255).astype(np.uint8)[:, :, None], 3, axis=2)


def centre_of_mass_near(image: np.ndarray, point: np.ndarray, reach: int) -> np.ndarray:
    x0, y0 = np.round(point).astype(int) - reach
    patch = image[max(y0, 0) : y0 + 2 * reach + 1, max(x0, 0) : x0 + 2 * reach + 1, 0].astype(float)
    y, x = np.mgrid[: patch.shape[0], : patch.shape[1]]
    return np.array([(x * patch).sum(), (y * patch).sum()]) / patch.sum() + [max(x0, 0), max(y0, 0)]


@pytest.mark.parametrize("image_size", [112, 160, 224])
@pytest.mark.parametrize(("degrees", "scale"), [(0, 1), (25, 1.7), (-40, 0.8), (10, 5.3)])
def test_landmarks_land_on_the_template(degrees, scale, image_size):
    matrix = similarity(degrees, scale, (300, 120))
    points = ARCFACE_TEMPLATE @ matrix[:, :2].T + matrix[:, 2]
    picture = dots(points, 1100, radius=3 * scale)
    crop = crop_to_template(picture, points, image_size)
    assert crop.shape == (image_size, image_size, 3)
    for target in (ARCFACE_TEMPLATE + 0.5) * image_size / 112 - 0.5:
        found = centre_of_mass_near(crop, target, reach=round(5 * image_size / 112))
        np.testing.assert_allclose(found, target, atol=0.25)


def test_a_large_face_is_averaged_and_not_sampled():
    # One-pixel stripes average to grey; sampling would return some of them as black or white.
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_to_template(stripes, ARCFACE_TEMPLATE * 10, 112)
    assert abs(crop[20:90, 20:90].astype(int) - 127).max() <= 20


def test_resize_takes_the_centre_and_keeps_proportions():
    picture = np.zeros((100, 300, 3), np.uint8)
    picture[:, 100:200] = 200
    crop = Resize(50).main_face(picture).crop_SSC
    assert (crop[:, 2:-2] == 200).all() and crop[:, [0, -1]].min() > 180  # the kernel reaches over the border
    np.testing.assert_allclose(Resize(50, fraction=0.5).faces(picture)[0].box, [125, 25, 175, 75])


def test_an_aligned_image_of_the_right_size_is_not_touched():
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    np.testing.assert_array_equal(Resize(112).main_face(noise).crop_SSC, noise)


@pytest.mark.parametrize("fraction", [0, -1, 1.5])
def test_resize_refuses_impossible_fractions(fraction):
    with pytest.raises(InputError, match="fraction"):
        Resize(10, fraction)


class FixedFaces(Aligner):
    def __init__(self, boxes):
        super().__init__(1)
        self.boxes = boxes

    def faces(self, picture_HWC):
        return [Face(np.array(box, np.float32), 1.0, np.zeros((1, 1, 3), np.uint8)) for box in self.boxes]


@pytest.mark.parametrize(
    ("boxes", "chosen"),
    [
        ([[0, 0, 10, 10], [40, 40, 60, 60]], 1),  # larger and central
        ([[0, 0, 24, 24], [40, 40, 60, 60]], 1),  # central though smaller: 576 - 2 * 2 * 38^2 < 400
        ([[10, 10, 90, 90], [45, 45, 55, 55]], 0),  # both central
    ],
)
def test_the_main_face_is_large_and_central(boxes, chosen):
    face = FixedFaces(boxes).main_face(np.zeros((100, 100, 3), np.uint8))
    np.testing.assert_array_equal(face.box, boxes[chosen])


def test_no_face_is_a_reason_to_reject():
    with pytest.raises(RejectedImage, match="no face found"):
        MTCNNAligner().main_face(np.zeros((60, 60, 3), np.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (11, 11), (500, 2)])
def test_tiny_and_narrow_pictures_hold_no_face_and_raise_nothing(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert MTCNNAligner(min_side=40).faces(noise) == []


def drawn_face(side: int) -> np.ndarray:
    """A face that MTCNN takes for one, drawn with ellipses."""
    image = Image.new("RGB", (200, 240), (90, 120, 160))
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 30, 160, 205), fill=(222, 180, 150))
    draw.pieslice((38, 12, 162, 130), 180, 360, fill=(60, 40, 25))
    draw.ellipse((52, 62, 148, 150), fill=(222, 180, 150))
    for x in (76, 124):
        draw.arc((x - 20, 80, x + 20, 110), 200, 340, fill=(60, 40, 25), width=5)
        draw.ellipse((x - 13, 98, x + 13, 112), fill=(250, 250, 250))
        draw.ellipse((x - 7, 97, x + 7, 112), fill=(50, 35, 25))
    draw.polygon([(100, 105), (90, 145), (110, 145)], fill=(200, 155, 128))
    draw.ellipse((90, 138, 110, 150), fill=(195, 145, 120))
    draw.chord((76, 155, 124, 182), 0, 180, fill=(170, 70, 70))
    return np.asarray(
        image.filter(ImageFilter.GaussianBlur(1.5)).resize((side, side * 6 // 5), Image.Resampling.BICUBIC)
    )


@pytest.fixture(scope="module")
def aligner():
    return MTCNNAligner(thresholds=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("side", [100, 200, 400])
def test_mtcnn_finds_a_drawn_face_at_every_size(aligner, side):
    boxes, scores, points = aligner.detect(drawn_face(side))
    assert len(boxes) == 1 and 0.5 < scores[0] <= 1
    expected = np.array([[76, 104], [124, 104], [100, 142], [80, 165], [120, 165]]) * side / 200
    assert np.abs(points[0] - expected).max() < 0.06 * side


def test_both_crops_are_made_of_what_mtcnn_finds():
    picture = drawn_face(200)
    loose = dict(thresholds=(0.5, 0.5, 0.5))
    template, box = MTCNNAligner(112, **loose), MTCNNAligner(160, crop="box", margin=0.2, **loose)
    found_box, _, points = box.detect(picture)
    np.testing.assert_array_equal(template.main_face(picture).crop_SSC, crop_to_template(picture, points[0]))
    published = extract_face(Image.fromarray(picture), found_box[0], 160, margin=32).byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(box.main_face(picture).crop_SSC, published)


def test_describe_tells_whatever_changes_the_crops():
    aligners = [
        Resize(112),
        Resize(160),
        Resize(112, 0.9),
        MTCNNAligner(),
        MTCNNAligner(crop="box"),
        MTCNNAligner(min_side=0),
    ]
    assert len({aligner.describe() for aligner in aligners}) == len(aligners)
