# SPDX-License-Identifier: MIT
"""Synthetic identities: face-like embeddings of any number of people, matched to the paper's figures.

docs/synthetic.md describes the model and its parameters.

Axes: N samples, K identities of a chunk, L intrinsic dimension, D embedding dimension, F families.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.files import atomic_folder, write_json

CHUNK_IDENTITIES = 256  # part of the data's definition: another value gives other data for the same seed
NORM_JITTER = 0.05  # standard deviation of log norm that quality does not explain

# Bounds other than 0 to 1 (shares and spreads) and 1 to 1,000,000 (counts).
_LIMITS = {
    "n_identities": (1, 10_000_000),  # seven digits: names of equal width sort like their labels
    "dim": (1, 65_536),
    "intrinsic_dim": (1, 65_536),
    "samples_per_identity": (1, 100_000),
    "spectrum_decay": (0, 10),
    "noise": (0, 100),
    "bad_noise": (0, 100),
    "norm": (0.1, 1_000),  # float16 neither overflows nor loses the direction, at any quality
    "seed": (0, 2**32 - 1),
}

# Every random quantity has a stream of its own for each chunk, drawn row by row: the first K identities of a larger set
# are the set of K, up to rounding.
_POPULATION, _COUNT, _FAMILY, _PERSON, _PERSON_QUALITY = range(5)
_IMAGE_QUALITY, _KIND, _WRONG_FAMILY, _WRONG_PERSON, _NOISE, _OWN_DIRECTIONS = range(5, 11)


class Chunk(NamedTuple):
    """Consecutive identities: (N, D) embeddings, (N,) int32 labels in the whole set, non-decreasing, and K names."""

    embeddings: np.ndarray
    labels: np.ndarray
    identities: tuple[str, ...]


@dataclass(frozen=True)
class SyntheticIdentities:
    """The first `n_identities` people of a random population, with images; the arguments are checked.

    A person's centre is the sum of the family's traits (in few directions, common to all people), the family's look and
    a personal part, scaled to length 1. An image is the centre plus noise, which is stronger in nuisance
    directions (as pose and illumination), some common to all people and some to a family, scaled to a norm that falls
    with the noise.

    An identity does not depend on how many others there are. The same seed gives the same data on one machine; other
    processors may round differently.
    """

    n_identities: int = 10_000
    dim: int = 512  # D, embedding dimension
    samples_per_identity: float = 30.0  # mean number of images of a person
    samples_spread: float = 0.25  # standard deviation of the logarithm of that number
    intrinsic_dim: int = 128  # L, dimension of the subspace of the embeddings; at most `dim` is used
    n_families: int = 400  # families of similar people in the population, including those that are not in the set
    trait_dims: int = 10  # directions of the traits, at most L. They decide how k-means divides the people.
    trait_share: float = 0.4  # share of a centre's variance due to its family's traits
    family_share: float = 0.43  # share due to its family's look; the rest is personal
    spectrum_decay: float = 0.4  # exponent of the power law by which variance falls from direction to direction, >= 0
    noise: float = 0.61  # length of the noise of an ordinary image, as a multiple of the centre's length
    identity_spread: float = 0.25  # standard deviation of log noise between people
    image_spread: float = 0.65  # standard deviation of log noise between images of a person
    nuisance_share: float = 0.45  # share of the noise variance in the nuisance directions
    nuisance_dims: int = 16  # nuisance directions, at most L
    own_share: float = 0.5  # share of the nuisance variance in as many directions drawn anew for each family
    bad_share: float = 0.0075  # share of badly captured images, whose noise is multiplied by `bad_noise`
    bad_noise: float = 3.0
    wrong_share: float = 0.01  # share of images of a stranger from the same population (label errors)
    norm: float = 20.0  # length of the embedding of an ordinary image
    norm_exponent: float = 0.3  # the norm is proportional to noise to the power of minus this
    dtype: str = "float16"
    seed: int = 0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is str:
                continue
            least, most = _LIMITS.get(field.name, (0, 1) if field.type is float else (1, 1_000_000))
            kinds = (int,) if field.type is int else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
                kind = "a whole number" if field.type is int else "a number"
                raise InputError(f"{field.name} = {value!r}", f"{kind} from {least:,} to {most:,}", f"set {field.name}")
        for one, other in (("trait_share", "family_share"), ("bad_share", "wrong_share")):
            total = getattr(self, one) + getattr(self, other)
            if total > 1:
                raise InputError(f"{one} + {other} = {total:g}", "at most 1", f"lower {one} or {other}")
        if self.dtype not in ("float16", "float32"):
            raise InputError(f"dtype = {self.dtype!r}", "float16 or float32", "set dtype")

    @property
    def n_chunks(self) -> int:
        return math.ceil(self.n_identities / CHUNK_IDENTITIES)

    def counts(self, c: int) -> np.ndarray:
        """Number of images of each person of chunk c: (K,) int64, at least 1."""
        k = len(self._labels(c))
        # The mean of a log-normal variable is exp(mu + spread^2 / 2).
        log_count = self.samples_spread * self._stream(_COUNT, c).standard_normal(k) - self.samples_spread**2 / 2
        return np.maximum(np.rint(self.samples_per_identity * np.exp(log_count)), 1).astype(np.int64)

    def chunk(self, c: int) -> Chunk:
        """Makes chunk c, 0 to n_chunks - 1, which depends on the fields and c alone."""
        labels_K, counts_K = self._labels(c), self.counts(c)
        person_N = np.repeat(np.arange(len(labels_K)), counts_K)
        n = len(person_N)
        population = self._population

        kind_N = self._stream(_KIND, c).random(n)
        bad_N, wrong_N = kind_N < self.bad_share, kind_N >= 1 - self.wrong_share
        person_log_K = self.identity_spread * self._stream(_PERSON_QUALITY, c).standard_normal(len(labels_K))
        image_log_N2 = self._stream(_IMAGE_QUALITY, c).standard_normal((n, 2))
        relative_noise_N = np.exp(person_log_K[person_N] + self.image_spread * image_log_N2[:, 0])
        relative_noise_N[bad_N] *= self.bad_noise
        norm_N = self.norm * np.exp(NORM_JITTER * image_log_N2[:, 1])
        norm_N *= np.clip(relative_noise_N, 0.1, 10) ** -self.norm_exponent

        family_K, centres_KL = self._centres(c, len(labels_K), _FAMILY, _PERSON)
        family_N, centres_NL = family_K[person_N], centres_KL[torch.from_numpy(person_N)]
        if wrong_N.any():
            strangers = self._centres(c, int(wrong_N.sum()), _WRONG_FAMILY, _WRONG_PERSON)
            family_N[wrong_N], centres_NL[torch.from_numpy(wrong_N)] = strangers
        noise_N1 = torch.from_numpy((self.noise * relative_noise_N).astype(np.float32))[:, None]
        directions_NL = population.noise_FL[torch.from_numpy(family_N)]
        images_NL = self._noise(c, n).mul_(noise_N1).mul_(directions_NL).add_(centres_NL)
        # The map keeps lengths, so the norm is set in the smaller space. A length of exactly zero has no direction.
        length_N = images_NL.norm(dim=1).clamp_(min=torch.finfo(torch.float32).tiny)
        images_NL.mul_((torch.from_numpy(norm_N.astype(np.float32)) / length_N)[:, None])
        embeddings_ND = (images_NL @ population.map_LD).to(getattr(torch, self.dtype)).numpy()
        identities = tuple(f"identity_{label:07d}" for label in labels_K)
        return Chunk(embeddings_ND, labels_K[person_N].astype(np.int32), identities)

    def chunks(self) -> Iterator[Chunk]:
        """All chunks in order; one is in memory at a time."""
        return map(self.chunk, range(self.n_chunks))

    def generate(self) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """(N, D) embeddings, (N,) int32 labels and names, for `EmbeddingSet(*synthetic.generate())`."""
        embeddings, labels, identities = zip(*self.chunks(), strict=True)
        return np.concatenate(embeddings), np.concatenate(labels), tuple(chain.from_iterable(identities))

    def write(self, path: Path | str) -> EmbeddingSet:
        """Writes the set as a new EmbeddingSet folder, whole or not at all; one chunk is in memory at a time."""
        counts_K = np.concatenate([self.counts(c) for c in range(self.n_chunks)])
        n = int(counts_K.sum())
        with atomic_folder(path) as folder:
            # Not a memory map: its written pages count as memory until they are flushed.
            with open(folder / "embeddings.npy", "wb") as stream, open(folder / "identities.txt", "w") as names:
                descr = np.lib.format.dtype_to_descr(np.dtype(self.dtype))
                header = {"descr": descr, "fortran_order": False, "shape": (n, self.dim)}
                np.lib.format.write_array_header_1_0(stream, header)
                for part in self.chunks():
                    stream.write(part.embeddings.data)
                    names.writelines(f"{name}\n" for name in part.identities)
            np.save(folder / "labels.npy", np.repeat(np.arange(self.n_identities, dtype=np.int32), counts_K))
            facts = {"count": n, "identities": self.n_identities, "dim": self.dim, "dtype": self.dtype}
            facts |= {"normalised": False, "source": "synthetic identities", "synthetic": asdict(self)}
            write_json(folder / "meta.json", facts)
        return EmbeddingSet.open(path, check_values=False)

    def _stream(self, what: int, c: int) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64([self.seed, what, c]))

    def _labels(self, c: int) -> np.ndarray:
        if not 0 <= c < self.n_chunks:
            raise IndexError(f"chunk {c} of {self.n_chunks}")
        return np.arange(c * CHUNK_IDENTITIES, min((c + 1) * CHUNK_IDENTITIES, self.n_identities))

    @cached_property
    def _population(self) -> "_Population":
        return _Population.of(self)

    def _centres(self, c: int, k: int, family_stream: int, person_stream: int) -> tuple[np.ndarray, torch.Tensor]:
        """Families, (K,) int64, and unit centres, (K, L) float32, of k people."""
        family_K = self._stream(family_stream, c).integers(self.n_families, size=k)
        scale_L = self._population.personal_L
        personal_KL = self._stream(person_stream, c).standard_normal((k, len(scale_L)), dtype=np.float32) * scale_L
        centres_KL = torch.from_numpy(self._population.families_FL[family_K] + personal_KL)
        return family_K, torch.nn.functional.normalize(centres_KL)

    def _noise(self, c: int, n: int) -> torch.Tensor:
        """Standard normal numbers, (N, L) float32; torch draws them twice as fast as numpy."""
        columns = len(self._population.personal_L)
        # torch draws in blocks of 16, and the last one otherwise if it is incomplete: with whole blocks, rows do not
        # depend on how many follow. Its generator takes 32 bits of seed: a running number keeps chunks apart.
        first = int(self._stream(_NOISE, 0).integers(2**32))
        generator = torch.Generator().manual_seed((first + c) % 2**32)
        padded = math.ceil(columns / 16) * 16
        return torch.randn((n, padded), generator=generator)[:, :columns]


class _Population(NamedTuple):
    """Parameters of a population, float32."""

    families_FL: np.ndarray  # sum of traits and look of each family
    personal_L: np.ndarray  # standard deviation of the personal part
    noise_FL: torch.Tensor  # relative standard deviation of each family's noise; the squares of a row sum to 1
    map_LD: torch.Tensor  # orthonormal rows

    @classmethod
    def of(cls, knobs: SyntheticIdentities) -> "_Population":
        random = knobs._stream(_POPULATION, 0)
        length = min(knobs.intrinsic_dim, knobs.dim)
        n_traits, n_nuisance = min(knobs.trait_dims, length), min(knobs.nuisance_dims, length)
        look_L, trait_T = _spectrum(length, knobs.spectrum_decay), _spectrum(n_traits, knobs.spectrum_decay)
        families_FL = random.standard_normal((knobs.n_families, length)) * look_L * math.sqrt(knobs.family_share)
        traits_FT = random.standard_normal((knobs.n_families, n_traits)) * trait_T * math.sqrt(knobs.trait_share)
        families_FL[:, :n_traits] += traits_FT
        noise_FL = np.full((knobs.n_families, length), (1 - knobs.nuisance_share) / length)
        # Spread evenly over directions that tell people apart well and hardly.
        common = np.linspace(0, length - 1, n_nuisance).astype(int)
        noise_FL[:, common] += (1 - knobs.own_share) * knobs.nuisance_share / n_nuisance
        map_DL, triangle = np.linalg.qr(random.standard_normal((knobs.dim, length)))
        map_DL *= np.sign(np.diag(triangle))  # uniformly distributed among orthonormal maps
        order_FL = knobs._stream(_OWN_DIRECTIONS, 0).random((knobs.n_families, length)).argsort(axis=1)
        own_FT = order_FL[:, :n_nuisance]
        noise_FL[np.arange(knobs.n_families)[:, None], own_FT] += knobs.own_share * knobs.nuisance_share / n_nuisance
        personal_L = look_L * math.sqrt(max(0.0, 1 - knobs.trait_share - knobs.family_share))
        to_torch = [torch.tensor(a, dtype=torch.float32) for a in (np.sqrt(noise_FL), map_DL.T)]
        return cls(families_FL.astype(np.float32), personal_L.astype(np.float32), *to_torch)


def _spectrum(length: int, decay: float) -> np.ndarray:
    """Standard deviations whose squares sum to 1 and fall by the power law k^-decay: (length,) float64."""
    variance = np.arange(1, length + 1, dtype=np.float64) ** -decay
    return np.sqrt(variance / variance.sum())
