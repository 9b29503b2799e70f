# SPDX-License-Identifier: MIT
"""Source: labelled images, and the choice of those that are used.

Axes: N images, K identities.

An augmented copy is called like its original, followed by a mark that says how to make it: `anna/1.jpg#rotate+7.5`.
Copies are never stored as images.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from datamodules.embedding_set import UNKNOWN, check_names
from datamodules.errors import InputError

NAMES = np.dtypes.StringDType()  # compact, and cheap to share between worker processes, unlike a list of str
_MARK = re.compile(r"#(flip|rotate[+-]\d+\.\d|brightness\d\.\d\d|contrast\d\.\d\d)\Z")
_KINDS = ("flip", "rotate", "brightness", "contrast")


@dataclass(frozen=True)
class Listing:
    """N images of K identities, sorted by identity; originals come before copies."""

    names: np.ndarray  # (N,) unique strings, the lines of `files.txt`
    labels: np.ndarray  # (N,) int32 in [0, K), non-decreasing, every label present
    identities: tuple[str, ...]  # K names, in alphabetical order

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Listing":
        """The images of ascending `rows`, (n,); identities without any are left out, and labels renumbered."""
        kept, labels = np.unique(self.labels[rows], return_inverse=True)
        return Listing(self.names[rows], labels.astype(np.int32), tuple(self.identities[label] for label in kept))

    def digest(self) -> str:
        digest = hashlib.sha256("\n".join(self.identities).encode())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        for start in range(0, len(self), 65_536):
            digest.update("\n".join(self.names[start : start + 65_536].tolist()).encode())
        return digest.hexdigest()[:16]


class Source(ABC):
    """Base of all sources of labelled images.

    Args:
        n_identities: identities to draw at random; None takes all.
        images_per_identity: images of an identity, at most, drawn at random; None takes all.
        min_images: identities with fewer images are left out.
        top_up_to: identities with fewer usable images get augmented copies (the paper: 5); 0 makes none.
    """

    aligned = False  # whether the images are face crops already

    def __init__(
        self, n_identities: int | None = None, images_per_identity: int | None = None, min_images: int = 1,
        top_up_to: int = 5, seed: int = 0, unknown: str = UNKNOWN,
    ):  # fmt: skip
        self.n_identities, self.images_per_identity, self.min_images = n_identities, images_per_identity, min_images
        self.top_up_to, self.seed, self.unknown = top_up_to, seed, unknown
        least = {"n_identities": 1, "images_per_identity": 1, "min_images": 1, "top_up_to": 0, "seed": 0}
        for key, low in least.items():
            if (value := getattr(self, key)) is not None and value < low:
                raise InputError(f"source.{key} = {value}", f"at least {low}", f"raise source.{key}")

    @abstractmethod
    def scan(self) -> Listing:
        """Lists every image; raises an `InputError` if there is none in the layout of this source."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The encoded image of an original; raises `RejectedImage` if it cannot be read."""

    @abstractmethod
    def describe(self) -> str:
        """One line for `meta.json`: kind and place of the source."""

    def listing(self) -> Listing:
        """The images of `scan` that the options choose; refuses too few identities, and ambiguous names."""
        return self.choose(self.scan())

    def choose(self, found: Listing) -> Listing:
        """What the options choose of everything; refuses what `listing` does."""
        counts = np.bincount(found.labels, minlength=len(found.identities))
        eligible = np.flatnonzero(counts >= self.min_images)
        wanted = len(eligible) if self.n_identities is None else self.n_identities
        if not 1 <= wanted <= len(eligible):
            got = f"{len(eligible)} identities with at least {self.min_images} images ({self.describe()})"
            raise InputError(got, f"at least {max(wanted, 1)}", "lower source.n_identities or source.min_images")
        check_names(found.identities, self.describe(), "rename one at the source, or move it out", self.unknown)
        # One permutation for all sizes: a larger draw contains the smaller ones.
        chosen = np.random.default_rng(self.seed).permutation(eligible)[:wanted]
        keep = np.isin(found.labels, chosen)
        if self.images_per_identity is not None:
            keep &= self._drawn_images(found, np.sort(chosen))
        return found.take(np.flatnonzero(keep))

    def _drawn_images(self, found: Listing, chosen: np.ndarray) -> np.ndarray:
        drawn = np.zeros(len(found), bool)
        for label in chosen:
            start, end = np.searchsorted(found.labels, [label, label + 1])
            order = _generator(self.seed, found.identities[label]).permutation(end - start)
            drawn[start + order[: self.images_per_identity]] = True
        return drawn

    def copies(self, usable: Listing) -> Listing:
        """Copies, and nothing else, for the identities of `usable` with fewer than `top_up_to` images.

        Originals take turns, and each is flipped, rotated, made brighter or darker and given more or less contrast. The
        order and the strengths depend on the seed and the identity's name alone.
        """
        names, labels = [], []
        starts = np.searchsorted(usable.labels, np.arange(len(usable.identities) + 1))
        for label in np.flatnonzero(np.diff(starts) < self.top_up_to):
            originals = usable.names[starts[label] : starts[label + 1]].tolist()
            made = copy_names(originals, self.top_up_to, self.seed, usable.identities[label])
            names += made
            labels += [label] * len(made)
        return Listing(np.array(names, NAMES), np.array(labels, np.int32), usable.identities)

    def provenance(self) -> dict[str, Any]:
        options = {key: _plain(value) for key, value in vars(self).items() if not key.startswith("_")}
        return {"source": self.describe(), "source_options": options, "unknown": self.unknown}


def copy_names(originals: Sequence[str], top_up_to: int, seed: int, identity: str) -> list[str]:
    """Distinct names of the copies that bring an identity to `top_up_to` images."""
    generator = _generator(seed, identity)
    order = generator.permutation(len(originals))
    first_kind = int(generator.integers(len(_KINDS)))
    made: list[str] = []
    for turn in count():
        if len(made) >= top_up_to - len(originals):
            break
        round_, place = divmod(turn, len(originals))
        kind = _KINDS[(first_kind + round_ + place) % len(_KINDS)]
        sign = 1 if generator.random() < 0.5 else -1
        strength = generator.uniform(0.25, 1.0) * sign
        mark = {
            "flip": "flip",
            "rotate": f"rotate{15 * strength:+.1f}",
            "brightness": f"brightness{1 + 0.3 * strength:.2f}",
            "contrast": f"contrast{1 + 0.3 * strength:.2f}",
        }[kind]
        name = f"{originals[order[place]]}#{mark}"
        if name not in made:
            made.append(name)
    return made


def original_of(name: str) -> str:
    """The original of a line of `files.txt`: the line without the mark of a copy.

    >>> original_of("anna/1.jpg#rotate+7.5"), original_of("anna/1.jpg"), original_of("anna/no#1.jpg")
    ('anna/1.jpg', 'anna/1.jpg', 'anna/no#1.jpg')
    """
    return _MARK.sub("", name)


def groups_of(names: Iterable[str]) -> np.ndarray:
    """For each line of `files.txt` the place of the first image with the same original: (N,) int64."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(original_of(name), row) for row, name in enumerate(names)], np.int64)


def is_copy(name: str) -> bool:
    """Whether a line of `files.txt` is marked as an augmented copy."""
    return _MARK.search(name) is not None


def apply_mark(image_HWC: np.ndarray, name: str) -> np.ndarray:
    """The copy that the mark of a name asks for, or the image itself without a mark: (H, W, 3) uint8 RGB.

    The image is the crop of the original: alignment after a rotation would undo it.
    """
    if (match := _MARK.search(name)) is None:
        return image_HWC
    kind = next(kind for kind in _KINDS if match[1].startswith(kind))
    strength = match[1].removeprefix(kind)
    if kind == "flip":
        return np.ascontiguousarray(image_HWC[:, ::-1])
    if kind == "rotate":
        # A mirrored surround, so that no black corners mark a copy.
        height, width = image_HWC.shape[:2]
        pad = max(height, width) // 4 + 1
        padded = np.pad(image_HWC, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
        turned = Image.fromarray(padded).rotate(float(strength), Image.Resampling.BILINEAR)
        return np.asarray(turned)[pad : pad + height, pad : pad + width]
    enhancer = ImageEnhance.Brightness if kind == "brightness" else ImageEnhance.Contrast
    return np.asarray(enhancer(Image.fromarray(image_HWC)).enhance(float(strength)))


def runs(start_C: np.ndarray, count_C: np.ndarray) -> np.ndarray:
    """Runs of `count_C` whole numbers from `start_C` on, one after another: (N,) int64.

    >>> runs(np.array([10, 20]), np.array([3, 2])).tolist()
    [10, 11, 12, 20, 21]
    """
    before_C = np.cumsum(count_C) - count_C
    return np.arange(count_C.sum()) + np.repeat(start_C - before_C, count_C)


def unwritable(name: str) -> str | None:
    """Why `files.txt` or `identities.txt` cannot hold a name, or None if they can."""
    if "\n" in name or "\r" in name:
        return "name with a line break"
    if is_copy(name):
        return "name that ends like the mark of an augmented copy"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "name that is not UTF-8"
    return None


def _generator(seed: int, identity: str) -> np.random.Generator:
    # Seeded by the name: an identity's images do not depend on who else is there.
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str | bool) else str(value)
