# SPDX-License-Identifier: MIT
"""Embeddings on disk, finished shard by shard: a killed run loses at most the shard that each device was working on.

Axes: N rows, D embedding dimension.
"""

from pathlib import Path

import numpy as np

from datamodules.errors import InputError
from datamodules.files import atomic_file, open_npy, read_json, write_json


class ShardStore:
    """N rows of D numbers in a memory-mapped file, and which shards of them are finished.

    Args:
        folder: where `embeddings.npy` and one small file per finished shard are kept.
        dtype: "float16" or "float32".
    """

    def __init__(self, folder: Path, n_rows: int, dim: int, dtype: str, shard_rows: int):
        self.folder, self.n_rows, self.dim, self.dtype, self.shard_rows = folder, n_rows, dim, dtype, shard_rows
        self._map: np.memmap | None = None

    def __getstate__(self) -> dict:
        return {**vars(self), "_map": None}

    @property
    def n_shards(self) -> int:
        """The last of them may be smaller."""
        return -(-self.n_rows // self.shard_rows)

    def rows_of(self, shard: int) -> range:
        """The rows of a shard."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.n_rows))

    def create(self) -> None:
        """Makes the files unless they are there; to be called by one process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "embeddings.npy"
        if not path.exists():
            with atomic_file(path) as temporary, open(temporary, "wb") as stream:
                header = {"descr": np.lib.format.dtype_to_descr(np.dtype(self.dtype)), "fortran_order": False}
                np.lib.format.write_array_header_1_0(stream, {**header, "shape": (self.n_rows, self.dim)})
                # Zeros that take no room yet where the file system knows sparse files.
                stream.truncate(stream.tell() + self.n_rows * self.dim * np.dtype(self.dtype).itemsize)

    def pending(self) -> list[int]:
        """Shards that are not finished, ascending."""
        return [shard for shard in range(self.n_shards) if not self._marker(shard).exists()]

    def write(self, rows: np.ndarray, embeddings: np.ndarray) -> None:
        """Puts embeddings, (B, D), at `rows`, (B,); lost in a crash until their shard is finished."""
        if self._map is None:
            self._map = np.load(self.folder / "embeddings.npy", mmap_mode="r+", allow_pickle=False)
        self._map[rows] = embeddings

    def finish(self, shard: int, rejected: dict[int, str]) -> None:
        """Brings all that was written to the disk and marks the shard as finished; `rejected` has rows and reasons."""
        if self._map is not None:
            self._map.flush()
        write_json(self._marker(shard), {"rejected": {str(row): reason for row, reason in sorted(rejected.items())}})

    def rejected(self) -> dict[int, str]:
        """Rows of finished shards without an embedding, and why; ascending."""
        found: dict[int, str] = {}
        for shard in range(self.n_shards):
            if (marker := self._marker(shard)).exists():
                listed = read_json(marker, cure="remove the file, its shard is extracted again").get("rejected", {})
                found |= {int(row): str(reason) for row, reason in listed.items()}
        return found

    def embeddings(self) -> np.ndarray:
        """(N, D), memory-mapped and read-only.

        Raises:
            InputError: the file is damaged or of another size.
        """
        stored = open_npy(self.folder / "embeddings.npy", (self.dtype,), ndim=2)
        if stored.shape != (self.n_rows, self.dim):
            cure = "remove the folder, it is made anew"
            raise InputError(f"{self.folder} with shape {stored.shape}", f"({self.n_rows}, {self.dim})", cure)
        return stored

    def _marker(self, shard: int) -> Path:
        return self.folder / f"shard_{shard:06d}.json"
