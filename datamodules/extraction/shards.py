# SPDX-License-Identifier: MIT
"""Embeddings on disk, finished shard by shard: a killed run loses at most one shard per device.

Axes: N rows, D embedding dimension.
"""

from pathlib import Path

import numpy as np

from datamodules.errors import InputError
from datamodules.files import atomic_file, open_npy, read_json, write_json


class ShardStore:
    """N rows of D numbers, float16 or float32, in a memory-mapped file, and one small file per finished shard."""

    def __init__(self, folder: Path, n_rows: int, dim: int, dtype: str, shard_rows: int):
        self.folder, self.n_rows, self.dim, self.dtype, self.shard_rows = folder, n_rows, dim, dtype, shard_rows
        self._map: np.memmap | None = None

    def __getstate__(self) -> dict:
        return {**vars(self), "_map": None}

    @property
    def n_shards(self) -> int:
        return -(-self.n_rows // self.shard_rows)

    def rows_of(self, shard: int) -> range:
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.n_rows))

    def create(self) -> None:
        """Makes the files if they do not exist; to be called by one process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "embeddings.npy"
        if not path.exists():
            with atomic_file(path) as temporary, open(temporary, "wb") as stream:
                header = {"descr": np.lib.format.dtype_to_descr(np.dtype(self.dtype)), "fortran_order": False}
                np.lib.format.write_array_header_1_0(stream, {**header, "shape": (self.n_rows, self.dim)})
                # Zeros; on file systems with sparse files they take no room yet.
                stream.truncate(stream.tell() + self.n_rows * self.dim * np.dtype(self.dtype).itemsize)

    def pending(self) -> list[int]:
        return [shard for shard in range(self.n_shards) if not self._marker(shard).exists()]

    def write(self, rows: np.ndarray, embeddings: np.ndarray) -> None:
        """Writes embeddings, (B, D), at `rows`, (B,); a crash before `finish` loses them."""
        if self._map is None:
            self._map = np.load(self.folder / "embeddings.npy", mmap_mode="r+", allow_pickle=False)
        self._map[rows] = embeddings

    def finish(self, shard: int, rejected: dict[int, str]) -> None:
        """Flushes the embeddings to the disk and marks the shard as finished; `rejected` has rows and reasons."""
        if self._map is not None:
            self._map.flush()
        write_json(self._marker(shard), {"rejected": {str(row): reason for row, reason in sorted(rejected.items())}})

    def rejected(self) -> dict[int, str]:
        """Rows of finished shards without an embedding, ascending, with reasons."""
        found: dict[int, str] = {}
        for shard in range(self.n_shards):
            if (marker := self._marker(shard)).exists():
                listed = read_json(marker, cure="remove the file, its shard is extracted again").get("rejected", {})
                found |= {int(row): str(reason) for row, reason in listed.items()}
        return found

    def embeddings(self) -> np.ndarray:
        """(N, D), memory-mapped and read-only; refuses a file that is damaged or of another size."""
        stored = open_npy(self.folder / "embeddings.npy", ("float16", "float32"), ndim=2)
        if stored.shape != (self.n_rows, self.dim) or stored.dtype != self.dtype:
            got, expected = f"shape {stored.shape} of {stored.dtype}", f"({self.n_rows}, {self.dim}) of {self.dtype}"
            raise InputError(f"{self.folder} with {got}", expected, "remove the folder, it is made anew")
        return stored

    def _marker(self, shard: int) -> Path:
        return self.folder / f"shard_{shard:06d}.json"
