# SPDX-License-Identifier: MIT
"""Pictures of every kind, whole and damaged."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.images import MAX_PIXELS, RejectedImage, decode, read_bytes


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def halves(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_kinds_come_out_as_they_went_in(kind):
    noise = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(noise), kind)).pixels_HWC, noise)


def test_the_content_counts_and_not_the_suffix(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(halves(), "PNG"))
    assert decode(read_bytes(path)).pixels_HWC[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_range(kind):
    values = np.array([[0, 257 * 17, 257 * 128, 65535]], np.uint16).repeat(3, axis=0)
    pixels = decode(encoded(Image.fromarray(values), kind)).pixels_HWC
    assert pixels.shape == (3, 4, 3)
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 17, 128, 255])


def test_16_bit_pgm_keeps_its_range():
    content = b"P5\n2 1\n65535\n" + struct.pack(">HH", 65535, 257 * 40)
    np.testing.assert_array_equal(decode(content).pixels_HWC[0, :, 1], [255, 40])


@pytest.mark.parametrize(("values", "expected"), [([0.0, 0.2, 1.0], [0, 51, 255]), ([0.0, 51.0, 255.0], [0, 51, 255])])
def test_float_tiff_of_either_range(values, expected):
    image = Image.fromarray(np.array([values], np.float32))
    np.testing.assert_array_equal(decode(encoded(image, "TIFF")).pixels_HWC[0, :, 0], expected)


@pytest.mark.parametrize("values", [[-1.0, 3.0], [0.0, 1e6], [0.0, float("nan")]])
def test_float_tiff_without_a_defined_range_is_rejected(values):
    with pytest.raises(RejectedImage, match="grey values from"):
        decode(encoded(Image.fromarray(np.array([values], np.float32)), "TIFF"))


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palette_become_three_channels(mode):
    pixels = decode(encoded(Image.new("L", (5, 4), 255).convert(mode), "PNG")).pixels_HWC
    assert pixels.shape == (4, 5, 3) and (pixels == 255).all()


def test_cmyk_jpeg_has_the_colours_that_a_viewer_shows():
    # Pure cyan ink is red's complement.
    content = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95)
    red, green, blue = decode(content).pixels_HWC[8, 8].astype(int)
    assert red < 30 and green > 225 and blue > 225


def test_transparent_parts_lie_on_white():
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    pixels = decode(encoded(image, "PNG")).pixels_HWC
    assert pixels[0, 0].tolist() == [10, 20, 30] and pixels[3, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("orientation", "red_corner"), [(1, (0, 0)), (3, (0, -1)), (6, (0, 0)), (8, (-1, 0)), (2, (0, -1))]
)
def test_exif_orientation_is_obeyed(orientation, red_corner):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encoded(halves(), "PNG", exif=exif)).pixels_HWC
    assert pixels.shape[:2] == ((40, 20) if orientation in (6, 8) else (20, 40))
    assert pixels[red_corner].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_20000_pixels_wide_is_shrunk_in_proportion(kind):
    content = encoded(halves(20_000, 400), kind)
    decoded = decode(content, max_side=1000)
    assert decoded.pixels_HWC.shape == (20, 1000, 3)
    assert decoded.scale == pytest.approx(0.05)
    assert decoded.pixels_HWC[10, 250].tolist() == pytest.approx([255, 0, 0], abs=3)
    assert decoded.pixels_HWC[10, 750].tolist() == pytest.approx([0, 0, 255], abs=3)


def test_a_jpeg_beyond_pillows_limit_is_decoded_at_a_fraction():
    content = encoded(Image.new("L", (20_000, 9_500), 200), "JPEG")
    assert 20_000 * 9_500 > MAX_PIXELS
    decoded = decode(content, max_side=2048)
    assert decoded.pixels_HWC.shape == (973, 2048, 3) and (decoded.pixels_HWC == 200).all()


def png_claiming(width: int, height: int) -> bytes:
    content = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


def test_decompression_bombs_are_refused_before_they_are_decoded():
    with pytest.raises(RejectedImage, match="over the limit of"):
        decode(png_claiming(60_000, 60_000))


def test_a_jpeg_that_claims_too_much_is_refused():
    content = bytearray(encoded(Image.new("L", (16, 16)), "JPEG"))
    start = content.index(b"\xff\xc0")  # frame header: length (2), precision (1), height (2), width (2)
    content[start + 5 : start + 9] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(RejectedImage, match="65000 x 65000 pixels, over the limit"):
        decode(bytes(content))


def test_a_progressive_jpeg_is_bound_to_the_lower_limit():
    content = bytearray(encoded(Image.new("L", (16, 16)), "JPEG", progressive=True))
    start = content.index(b"\xff\xc2")
    content[start + 5 : start + 9] = struct.pack(">HH", 19_000, 19_000)
    with pytest.raises(RejectedImage, match="19000 x 19000 pixels, over the limit of 178,956,970"):
        decode(bytes(content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIC"),
    ],
)
def test_what_is_no_picture_is_rejected_with_a_reason(content, reason):
    with pytest.raises(RejectedImage, match=reason):
        decode(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_truncated_pictures_are_rejected(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(noise, kind)
    with pytest.raises(RejectedImage):
        decode(content[: len(content) // 2])


def test_files_that_cannot_be_read_are_rejected_and_pipes_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for name in ("missing.jpg", "pipe.jpg", "."):
        with pytest.raises(RejectedImage, match="no such file"):
            read_bytes(tmp_path / name)


BASES = [encoded(halves(), kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM")]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    base=st.sampled_from(BASES),
    cut=st.integers(0, 2000),
    flips=st.lists(st.tuples(st.integers(0, 1999), st.integers(1, 255)), max_size=4),
)
def test_damage_gives_pixels_or_a_reason_and_nothing_else(base, cut, flips):
    content = bytearray(base)
    for place, change in flips:
        content[place % len(content)] ^= change
    try:
        decoded = decode(bytes(content[: max(len(content) - cut, 0)]), max_side=64)
    except RejectedImage as rejection:
        assert rejection.reason and "\n" not in rejection.reason
    else:
        assert decoded.pixels_HWC.dtype == np.uint8 and decoded.pixels_HWC.shape[2] == 3
        assert max(decoded.pixels_HWC.shape) <= 64
