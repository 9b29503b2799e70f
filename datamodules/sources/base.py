# SPDX-License-Identifier: MIT
"""Source: where labelled images come from, and which of them are used.

Axes: N images, K identities.

An augmented copy has the name of its original with a mark behind it, `anna/1.jpg#rotate+7.5`, that says all there is
to know to make it: copies are never stored as images.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from datamodules.errors import InputError

NAMES = np.dtypes.StringDType()  # compact, and cheap to share between worker processes, unlike a list of str
_MARK = re.compile(r"#(flip|rotate[+-]\d+\.\d|brightness\d\.\d\d|contrast\d\.\d\d)\Z")
_KINDS = ("flip", "rotate", "brightness", "contrast")


@dataclass(frozen=True)
class Listing:
    """N images of K identities, sorted by identity; inside an identity originals come before copies.

    Attributes:
        names: (N,) strings, unique: the lines of `files.txt`.
        labels: (N,) int32 in [0, K), non-decreasing, every label present.
        identities: K names, in alphabetical order.
    """

    names: np.ndarray
    labels: np.ndarray
    identities: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Listing":
        """The images of ascending `rows`, (n,); identities that lose all of theirs are left out, labels renumbered."""
        kept, labels = np.unique(self.labels[rows], return_inverse=True)
        return Listing(self.names[rows], labels.astype(np.int32), tuple(self.identities[label] for label in kept))

    def digest(self) -> str:
        """A hash of names, labels and identities."""
        digest = hashlib.sha256("\n".join(self.identities).encode())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        for start in range(0, len(self), 65_536):
            digest.update("\n".join(self.names[start : start + 65_536].tolist()).encode())
        return digest.hexdigest()[:16]


class Source(ABC):
    """Base of all sources of labelled images.

    Args:
        n_identities: how many identities to draw at random; None takes all.
        images_per_identity: at most so many images of each, drawn at random; None takes all.
        min_images: identities with fewer images are left out.
        top_up_to: identities with fewer usable images are topped up with augmented copies (the paper: 5); 0 for none.
        seed: of the draws and of the copies.
    """

    aligned = False  # whether the images are face crops already, so that no face is looked for

    def __init__(
        self,
        n_identities: int | None = None,
        images_per_identity: int | None = None,
        min_images: int = 1,
        top_up_to: int = 5,
        seed: int = 0,
    ):
        self.n_identities, self.images_per_identity, self.min_images = n_identities, images_per_identity, min_images
        self.top_up_to, self.seed = top_up_to, seed
        least = {"n_identities": 1, "images_per_identity": 1, "min_images": 1, "top_up_to": 0, "seed": 0}
        for key, low in least.items():
            if (value := getattr(self, key)) is not None and value < low:
                raise InputError(f"source.{key} = {value}", f"at least {low}", f"raise source.{key}")

    @abstractmethod
    def scan(self) -> Listing:
        """Lists every image there is.

        Raises:
            InputError: nothing there, or not in the layout of this source.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The encoded image of an original.

        Raises:
            RejectedImage: it cannot be read.
        """

    @abstractmethod
    def describe(self) -> str:
        """One line for `meta.json`: what and where."""

    def listing(self) -> Listing:
        """The images that are used: all that `scan` finds, less what the options leave out.

        Raises:
            InputError: nothing is left, or fewer identities than asked for.
        """
        found = self.scan()
        counts = np.bincount(found.labels, minlength=len(found.identities))
        eligible = np.flatnonzero(counts >= self.min_images)
        wanted = len(eligible) if self.n_identities is None else self.n_identities
        if not 1 <= wanted <= len(eligible):
            got = f"{len(eligible)} identities with at least {self.min_images} images ({self.describe()})"
            raise InputError(got, f"at least {max(wanted, 1)}", "lower source.n_identities or source.min_images")
        # One permutation for all sizes: the draw of 2,000 identities contains that of 1,000.
        chosen = np.random.default_rng(self.seed).permutation(eligible)[:wanted]
        keep = np.isin(found.labels, chosen)
        if self.images_per_identity is not None:
            keep &= self._drawn_images(found, np.sort(chosen))
        return found.take(np.flatnonzero(keep))

    def _drawn_images(self, found: Listing, chosen: np.ndarray) -> np.ndarray:
        drawn = np.zeros(len(found), bool)
        starts = np.searchsorted(found.labels, np.arange(len(found.identities) + 1))
        for label in chosen:
            start, end = starts[label], starts[label + 1]
            order = _generator(self.seed, found.identities[label]).permutation(end - start)
            drawn[start + order[: self.images_per_identity]] = True
        return drawn

    def copies(self, usable: Listing) -> Listing:
        """The few-image rule: marked copies for identities with fewer than `top_up_to` images.

        Originals take turns; each gets flip, rotation, brightness and contrast in turn. Which comes first and by how
        much depends on the seed and the identity's name alone.

        Returns:
            Copies only, with the labels and identities of `usable`.
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
        """What to note in `meta.json`: the source and its options."""
        options = {key: _plain(value) for key, value in vars(self).items() if not key.startswith("_")}
        return {"source": self.describe(), "source_options": options}


def copy_names(originals: Sequence[str], top_up_to: int, seed: int, identity: str) -> list[str]:
    """Names of the copies that bring an identity to `top_up_to` images.

    Returns:
        `top_up_to - len(originals)` distinct names, or none.
    """
    generator = _generator(seed, identity)
    order = generator.permutation(len(originals))
    first_kind = int(generator.integers(len(_KINDS)))
    made: list[str] = []
    turn = 0
    while len(made) < top_up_to - len(originals):
        round_, place = divmod(turn, len(originals))
        kind = _KINDS[(first_kind + round_ + place) % len(_KINDS)]
        sign = 1 if generator.random() < 0.5 else -1
        strength = generator.uniform(0.25, 1.0) * sign  # a copy that is all but the original would add nothing
        mark = {
            "flip": "flip",
            "rotate": f"rotate{15 * strength:+.1f}",
            "brightness": f"brightness{1 + 0.3 * strength:.2f}",
            "contrast": f"contrast{1 + 0.3 * strength:.2f}",
        }[kind]
        name = f"{originals[order[place]]}#{mark}"
        if name not in made:
            made.append(name)
        turn += 1
    return made


def original_of(name: str) -> str:
    """The original that a line of `files.txt` was made from: the line itself unless it is a marked copy.

    >>> original_of("anna/1.jpg#rotate+7.5"), original_of("anna/1.jpg"), original_of("anna/no#1.jpg")
    ('anna/1.jpg', 'anna/1.jpg', 'anna/no#1.jpg')
    """
    return _MARK.sub("", name)


def groups_of(names: Iterable[str]) -> np.ndarray:
    """Equal numbers for images that share an original, for splits that must keep them on one side.

    Args:
        names: N lines of `files.txt`.

    Returns:
        (N,) int64: the place of the first image of the group.
    """
    first: dict[str, int] = {}
    return np.array([first.setdefault(original_of(name), row) for row, name in enumerate(names)], np.int64)


def is_copy(name: str) -> bool:
    """Whether a line of `files.txt` is marked as an augmented copy."""
    return _MARK.search(name) is not None


def apply_mark(image_HWC: np.ndarray, name: str) -> np.ndarray:
    """Makes the copy that a name asks for, after the face has been cropped (alignment would undo a rotation).

    Args:
        image_HWC: (H, W, 3) uint8 RGB, the crop of the original.
        name: a line of `files.txt`; without a mark the image is returned as it is.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if (match := _MARK.search(name)) is None:
        return image_HWC
    kind = next(kind for kind in _KINDS if match[1].startswith(kind))
    strength = match[1].removeprefix(kind)
    if kind == "flip":
        return np.ascontiguousarray(image_HWC[:, ::-1])
    if kind == "rotate":
        # Rotated inside a mirrored surround, so that no black corners give the copy away.
        height, width = image_HWC.shape[:2]
        pad = max(height, width) // 4 + 1
        padded = np.pad(image_HWC, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
        turned = Image.fromarray(padded).rotate(float(strength), Image.Resampling.BILINEAR)
        return np.asarray(turned)[pad : pad + height, pad : pad + width]
    enhancer = ImageEnhance.Brightness if kind == "brightness" else ImageEnhance.Contrast
    return np.asarray(enhancer(Image.fromarray(image_HWC)).enhance(float(strength)))


def runs(start_C: np.ndarray, count_C: np.ndarray) -> np.ndarray:
    """Whole numbers in runs, one run after another: `count_C[0]` from `start_C[0]` on, and so forth: (N,) int64.

    >>> runs(np.array([10, 20]), np.array([3, 2])).tolist()
    [10, 11, 12, 20, 21]
    """
    before_C = np.cumsum(count_C) - count_C
    return np.arange(count_C.sum()) + np.repeat(start_C - before_C, count_C)


def unwritable(name: str) -> str | None:
    """Why a name cannot stand in `files.txt` or `identities.txt`, or None if it can."""
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
