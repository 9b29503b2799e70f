# SPDX-License-Identifier: MIT
"""The folder of a run: configuration, lock, log, manifest. Nothing in it is overwritten silently."""

import fcntl
import hashlib
import json
import logging
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from datamodules.errors import InputError
from datamodules.files import read_json, write_json, write_text

# Keys that may differ when a run is continued: they extend it, or change where it runs, but none of its numbers.
MAY_CHANGE = (
    "name", "runs_dir", "launcher", "logger", "scenarios", "methods", "miners", "seeds", "n_identities", "n_subnets",
    "out", "fpir",
    "trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.threads", "trainer.max_logits_mb",
    "trainer.checkpoint_every_n_epochs",
)  # fmt: skip


class RunFolder:
    """An opened run folder; use it as a context, so that the lock is given back.

    Args:
        path: the folder, made if it is not there.
        config: the composed configuration.

    Raises:
        InputError: another process works on the folder, or it holds a run of another configuration.
    """

    def __init__(self, path: Path, config: DictConfig):
        self.path = path.absolute()
        self.config = OmegaConf.to_container(config, resolve=True)

    def __enter__(self) -> "RunFolder":
        known = self.path / "config.yaml"
        if known.exists():
            self._refuse_another_config(_read_config(known))
        elif self.path.is_dir() and any(file.name != ".lock" for file in self.path.iterdir()):
            raise InputError(
                f"{self.path}, which is no run folder", "a new or an earlier run folder", "choose another name"
            )
        self._new = not known.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.path} ({error.strerror})", "a folder that can be made", "choose another") from None
        self._lock = open(self.path / ".lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(
                f"{self.path}, in use by another process",
                "one coordinator per run folder",
                "wait for it, or choose another name",
            ) from None
        write_text(known, OmegaConf.to_yaml(OmegaConf.create(self.config)))
        self._log_handler = logging.FileHandler(self.path / "log.txt")
        self._log_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        root.addHandler(self._log_handler)
        root.setLevel(min(root.level, logging.INFO) if root.level else logging.INFO)
        self.note(provenance=provenance(self.config))
        return self

    def __exit__(self, kind, error, trace) -> None:
        logging.getLogger().removeHandler(self._log_handler)
        self._log_handler.close()
        if self._new and isinstance(error, InputError):
            shutil.rmtree(self.path)  # bad input leaves nothing behind, not even a configuration to disagree with
        self._lock.close()

    @property
    def manifest(self) -> dict[str, Any]:
        """What manifest.json says; empty for a new run."""
        file = self.path / "manifest.json"
        return read_json(file) if file.exists() else {}

    def note(self, **facts: Any) -> None:
        """Adds facts to the manifest, atomically."""
        write_json(self.path / "manifest.json", {**self.manifest, **facts})

    def _refuse_another_config(self, known: dict[str, Any]) -> None:
        before, now = _flat(known), _flat(self.config)
        changed = [
            key for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not any(key == k or key.startswith(f"{k}.") for k in MAY_CHANGE)
        ]  # fmt: skip
        if changed:
            key = changed[0]
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise InputError(
                f"{key} = {now.get(key)}{more}",
                f"{before.get(key)}, as {self.path} was begun with",
                "choose another name=, or repeat the run's own settings",
            )


def _read_config(file: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}, unreadable ({reason})", "the run's configuration", "choose another name=") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} with a {type(content).__name__}", "the run's configuration", "choose another name=")
    return content


def run_name(command: str, dataset: str, config: DictConfig) -> str:
    """A name made of the configuration, so that repeating a command goes on in the same folder."""
    content = OmegaConf.to_container(config, resolve=True)
    flat = {
        key: value for key, value in _flat(content).items() if not key.startswith(("launcher", "logger", "runs_dir"))
    }
    digest = hashlib.sha256(json.dumps(flat, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{command}-{dataset}-{digest}"


def provenance(config: dict[str, Any]) -> dict[str, Any]:
    """When, on what and with what: time, machine, versions, git commit, hash of the configuration."""
    packages = {}
    for package in ("torch", "pytorch-lightning", "numpy", "scikit-learn", "faiss-cpu", "torchmetrics"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed"
    import torch

    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join(Path(part).name if i == 0 else part for i, part in enumerate(sys.argv)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "git_commit": _git_commit(),
        "config_hash": hashlib.sha256(json.dumps(_flat(config), sort_keys=True, default=str).encode()).hexdigest()[:16],
        "versions": packages,
    }


def _git_commit() -> str:
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    if commit.returncode:
        return "unknown"
    return commit.stdout.strip() + (" with uncommitted changes" if changed.stdout.strip() else "")


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(content, dict):
        return {k: v for key, value in content.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): content}
