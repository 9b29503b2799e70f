# SPDX-License-Identifier: MIT
"""Faces drawn with ellipses that MTCNN takes for faces: pictures that may be shown to anybody."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SKINS = ((244, 208, 177), (222, 180, 150), (198, 150, 118), (160, 112, 82), (116, 78, 56))
HAIRS = ((40, 28, 20), (92, 58, 32), (176, 132, 72), (150, 150, 150), (128, 52, 24))


def draw_person(person: int, picture: int = 0, side: int = 200) -> np.ndarray:
    """Draws a person.

    Args:
        person: seed of what stays: skin, hair, distances, glasses, beard.
        picture: seed of what changes: background, light, tilt, mouth.
        side: width in pixels; the height is 1.2 times that.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    who, shot = np.random.default_rng([1, person]), np.random.default_rng([2, person, picture])
    skin = np.array(SKINS[person % len(SKINS)])
    hair = tuple(HAIRS[int(who.integers(len(HAIRS)))])
    apart, eye_y, wide = who.integers(21, 28), who.integers(98, 108), who.integers(52, 64)
    mouth_y, fringe, iris = who.integers(158, 168), who.integers(48, 66), tuple(who.integers(20, 110, 3).tolist())
    glasses, beard = who.random() < 0.35, who.random() < 0.3
    ground = tuple(shot.integers(90, 200, 3).tolist())
    smile, light, tilt = shot.uniform(6, 13), shot.uniform(0.85, 1.1), shot.uniform(-7, 7)
    tone, dark = tuple(skin.tolist()), tuple((skin * 0.86).astype(int).tolist())

    image = Image.new("RGB", (200, 240), ground)
    draw = ImageDraw.Draw(image)
    draw.ellipse((100 - wide, 30, 100 + wide, 205), fill=hair if beard else tone)
    draw.ellipse((100 - wide, 24, 100 + wide, 185 if beard else 204), fill=tone)
    draw.pieslice((96 - wide, 10, 104 + wide, 140), 180, 360, fill=hair)
    draw.ellipse((112 - wide, fringe, 88 + wide, 150), fill=tone)
    for x in (100 - apart, 100 + apart):
        draw.arc((x - 17, eye_y - 22, x + 17, eye_y + 8), 205, 335, fill=hair, width=5)
        draw.ellipse((x - 12, eye_y - 7, x + 12, eye_y + 7), fill=(248, 248, 248))
        draw.ellipse((x - 7, eye_y - 7, x + 7, eye_y + 7), fill=iris)
        draw.ellipse((x - 3, eye_y - 3, x + 3, eye_y + 3), fill=(10, 10, 10))
        if glasses:
            draw.ellipse((x - 19, eye_y - 15, x + 19, eye_y + 16), outline=(30, 30, 30), width=3)
    if glasses:
        draw.line((100 - apart + 19, eye_y, 100 + apart - 19, eye_y), fill=(30, 30, 30), width=3)
    draw.polygon([(100, eye_y + 4), (89, 144), (111, 144)], fill=dark)
    draw.ellipse((89, 136, 111, 150), fill=dark)
    draw.chord((78, mouth_y - smile, 122, mouth_y + smile), 0, 180, fill=(168, 70, 70))
    image = image.rotate(tilt, Image.Resampling.BICUBIC, center=(100, 120), fillcolor=ground)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1.3)), float) * light + shot.normal(0, 3, (240, 200, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return np.asarray(image.resize((side, round(side * 1.2)), Image.Resampling.LANCZOS))
