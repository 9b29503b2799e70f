# SPDX-License-Identifier: MIT
"""What all tests share: few threads, no network, small embedding sets, and the commands called as a user calls them."""

import os

# Before numpy, torch and the commands that tests start.
os.environ["OMP_NUM_THREADS"] = os.environ.get("CLUSTERFACE_TEST_THREADS", "1")

import importlib
import io
import signal
import socket
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from datamodules.embedding_set import EmbeddingSet
from datamodules.splits import split_identities

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
hypothesis.settings.register_profile("here", deadline=None, derandomize=True, max_examples=50, database=None)
hypothesis.settings.load_profile("here")

ROOT = Path(__file__).resolve().parents[1]
LOCAL = ("localhost", "127.0.0.1", "::1")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "ignore:The number of training batches:UserWarning")
    config.addinivalue_line("filterwarnings", "ignore:GPU available but not used:UserWarning")


class NetworkBlocked(RuntimeError):
    """A test tried to leave this machine."""


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Connections and name look-ups of anything but this machine fail."""
    patch = pytest.MonkeyPatch()
    look_up = socket.getaddrinfo

    def guarded(method):
        def connect(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
                raise NetworkBlocked(f"connection to {address}")
            return method(self, address)

        return connect

    def guarded_look_up(host, *arguments, **more):
        if host is not None and host not in LOCAL:
            raise NetworkBlocked(f"look-up of {host}")
        return look_up(host, *arguments, **more)

    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    patch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def shared_data():
    """`shared_data(name)`: a folder of the data beside the checkout; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        folder = ROOT / "../shared/data" / name
        if not folder.exists():
            pytest.skip(f"no {folder}: data beside the checkout")
        return folder.resolve()

    return find


def _people(n_identities=12, dim=8, samples=(5, 9), noise=0.3, seed=0, dtype="float32"):
    random = np.random.default_rng(seed)
    centres = random.standard_normal((n_identities, dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    labels = np.repeat(
        np.arange(n_identities, dtype=np.int32), random.integers(*samples, size=n_identities, endpoint=True)
    )
    embeddings = centres[labels] + noise * random.standard_normal((len(labels), dim)) / np.sqrt(dim) * 2
    embeddings *= random.uniform(0.5, 20, size=(len(labels), 1))  # lengths say nothing
    return embeddings.astype(dtype), labels, tuple(f"person {i:03d}" for i in range(n_identities))


@pytest.fixture(scope="session")
def people():
    """`people(n_identities=, dim=, samples=(low, high), noise=, seed=, dtype=)`: embeddings, labels, names."""
    return _people


@pytest.fixture(scope="session")
def memory_set():
    """`memory_set(...)`: an EmbeddingSet in memory, arguments as of `people`."""
    return lambda **arguments: EmbeddingSet(*_people(**arguments))


@pytest.fixture(scope="session")
def set_folder(tmp_path_factory) -> Path:
    """An EmbeddingSet folder named `toy`: 16 identities, 8-d, 5 to 9 samples each; not to be changed."""
    folder = tmp_path_factory.mktemp("sets") / "toy"
    EmbeddingSet.write(folder, *_people(n_identities=16, noise=0.45))
    return folder


@pytest.fixture(scope="session")
def toy_split(memory_set):
    """An EmbeddingSet of 12 identities in memory and its splits."""
    embedding_set = memory_set()
    return embedding_set, split_identities(embedding_set)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code.
        out, err: what it wrote.
    """

    code: int
    out: str
    err: str

    def assert_refused(self, *words: str) -> None:
        """Exit code 2 and one line on standard error with got, expected, cure, and the given words."""
        assert self.code == 2, f"exit code {self.code}\n{self.out}\n{self.err}"
        assert self.err.count("\n") == 1 and self.err.endswith("\n"), self.err
        for word in ("got ", "expected ", "cure: ", *words):
            assert word in self.err, f"no {word!r} in {self.err}"


@pytest.fixture(scope="session")
def call():
    """`call("compare", "seeds=1", ...)`: runs a command in this process as `python -m experiments.compare` would."""

    def run(name: str, *arguments: str) -> Ended:
        module = importlib.import_module(f"experiments.{name}")
        out, err, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", [f"experiments/{name}.py", *map(str, arguments)])
            patch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; this puts it back
            try:
                with pytest.raises(SystemExit) as ended:
                    module.main()
            finally:
                signal.signal(signal.SIGTERM, handler)
        return Ended(ended.value.code or 0, out.getvalue(), err.getvalue())

    return run
