# SPDX-License-Identifier: MIT
"""The folder of a run: configuration, lock, log, manifest."""

import hashlib
import json
import logging
import math
import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from datamodules.errors import InputError
from datamodules.files import (
    LEFTOVERS,
    disk_error,
    make_folder,
    read_sealed,
    remove_leftovers,
    sha256,
    write_sealed,
    write_text,
)  # fmt: skip
from experiments.command_line.terminal import typed_command
from experiments.command_line.trainer_arguments import CONSTANT
from experiments.runs.run_lock import RunLock

log = logging.getLogger(__name__)
SECONDS_BETWEEN_NOTES = 1.0

# Keys that may differ when a run goes on: they extend it, or change where it runs, but not its numbers.
MAY_CHANGE = (
    "name", "runs_dir", "launcher", "logger", "only", "scenarios", "methods", "metrics", "miners", "seeds",
    "n_identities", "n_subnets", "out", "overwrite", "fpir", "enrol_held_out",
    "trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.threads", "trainer.max_logits_mb",
    "trainer.checkpoint_every_n_epochs",
)  # fmt: skip


class RunFolder:
    """An opened run folder: a context manager that holds the lock.

    The manifest is written after the files that it names. If config.yaml or manifest.json is lost or damaged, it is
    made anew: each of them tells the configuration.

    Attributes:
        manifest: the content of manifest.json; empty for a new run.
        files: SHA-256 of files by their paths in the run folder, part of the manifest.

    Raises:
        InputError: another process works on the folder, it has a run of another configuration, or it cannot be written.
    """

    def __init__(self, path: Path, config: DictConfig):
        self.path = path.absolute()
        self.config = OmegaConf.to_container(config, resolve=True)
        grows = OmegaConf.select(config, "scheduler._target_") == CONSTANT and not config.get("callbacks")
        self._may_change = (*MAY_CHANGE, "trainer.max_epochs") if grows else MAY_CHANGE
        self.config_hash = _hash(self._fixed(self.config))
        self.manifest: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        self._changed = self._written = -math.inf

    def __enter__(self) -> "RunFolder":
        known, manifest = self.path / "config.yaml", self.path / "manifest.json"
        self._new = not (known.exists() or manifest.exists())
        ours = (".lock", *LEFTOVERS)
        if self._new and self.path.is_dir() and not all(any(map(file.match, ours)) for file in self.path.iterdir()):
            raise InputError(f"{self.path}, which is no run folder", "a new or an earlier one", "choose another name")
        try:
            make_folder(self.path)
            self._lock = RunLock(self.path / ".lock")
        except OSError as error:
            reason = f"{self.path} ({error.strerror})"
            raise InputError(reason, "a folder that can be written", "choose another") from None
        try:
            self._begin(known, manifest)
        except BaseException:
            self._lock.release()
            raise
        return self

    def _begin(self, known: Path, manifest: Path) -> None:
        damage = None
        if manifest.exists():
            try:
                self.manifest = read_sealed(manifest)
                self.files = self.manifest.get("files", {})
            except InputError as error:
                damage = error
        stated = self.manifest.get("config_hash")
        if stated != self.config_hash:
            if known.exists():
                self._refuse_another_config(read_config(known))  # names the first key that differs
            if stated is not None:
                raise InputError(
                    f"settings with hash {self.config_hash}", f"{stated}, as {self.path} was begun with",
                    "choose another name=, or repeat the run's own settings",
                )  # fmt: skip
        self._lock.sign()
        leftovers = remove_leftovers(self.path)
        write_text(known, OmegaConf.to_yaml(OmegaConf.create(self.config)))
        try:
            self._log_handler = _LogFile(self.path / "log.txt")
        except OSError as error:
            raise disk_error(error) or error from None
        self._log_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        root.addHandler(self._log_handler)
        root.setLevel(min(root.level, logging.INFO) if root.level else logging.INFO)
        if damage:
            log.warning("%s; the manifest is made anew from the files", damage)
        if leftovers:
            log.info("removed %d unfinished files of a process that was killed", len(leftovers))
        self.note(config_hash=self.config_hash, provenance=provenance())

    def __exit__(self, kind, error, trace) -> None:
        try:
            if self._written < self._changed:
                self.note()
        except InputError as second:
            if error is None:
                raise
            log.warning("%s", second)
        finally:
            logging.getLogger().removeHandler(self._log_handler)
            self._log_handler.close()
            if self._new and isinstance(error, InputError) and not (self.path / "subnetworks").exists():
                # After bad input nothing stays, so that the corrected command finds no other configuration.
                shutil.rmtree(self.path, ignore_errors=True)
            self._lock.release()

    def note(self, soon: bool = False, **facts: Any) -> None:
        """Adds facts to the manifest, atomically.

        Args:
            soon: write at most once a second, and the rest with the next note or at the end: for facts that the files
                tell too.
        """
        self.manifest = {**self.manifest, **facts, "files": self.files}
        self._changed = time.monotonic()
        if not soon or self._changed - self._written > SECONDS_BETWEEN_NOTES:
            write_sealed(self.path / "manifest.json", self.manifest)
            self._written = time.monotonic()

    def note_files(self, *files: Path) -> None:
        """Notes the SHA-256 of files; files outside the run folder are ignored."""
        ours = [file.absolute() for file in files if file.absolute().is_relative_to(self.path)]
        self.files |= {str(file.relative_to(self.path)): sha256(file) for file in ours}
        self.note()

    def verify(self, folder: Path) -> None:
        """Compares the files of a folder with their SHA-256 in the manifest.

        Raises:
            InputError: a file was altered.
        """
        for file in folder.iterdir():
            if self.files.get(name := str(file.relative_to(self.path)), known := sha256(file)) != known:
                raise InputError(f"{name} with SHA-256 {known[:16]}", f"{self.files[name][:16]}", "make it anew")

    def _refuse_another_config(self, known: dict[str, Any]) -> None:
        before, now = self._fixed(known), self._fixed(self.config)
        changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        if changed:
            key = changed[0]
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            why = " (more epochs can follow with scheduler=constant and no callbacks)" * (key == "trainer.max_epochs")
            raise InputError(
                f"{key} = {now.get(key)}{more}", f"{before.get(key)}, as {self.path} was begun with{why}",
                "choose another name=, or repeat the run's own settings",
            )  # fmt: skip

    def _fixed(self, config: dict[str, Any]) -> dict[str, Any]:
        left_out = tuple(f"{key}." for key in self._may_change)
        return {key: value for key, value in _flat(config).items() if not f"{key}.".startswith(left_out)}


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Does nothing: a full disk is reported once, when it stops the run, and not with every line of log."""


def _hash(flat: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(flat, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_config(file: Path) -> dict[str, Any]:
    """The configuration in a config.yaml.

    Raises:
        InputError: the file is missing, or no configuration.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}, unreadable ({reason})", "the run's configuration", "choose another name=") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} with a {type(content).__name__}", "the run's configuration", "choose another name=")
    return content


def run_name(command: str, dataset: str, config: DictConfig) -> str:
    """A name made from the configuration, so that a repeated command goes on in the same folder."""
    places = ("launcher", "logger", "runs_dir")
    flat = _flat(OmegaConf.to_container(config, resolve=True)).items()
    return f"{command}-{dataset}-{_hash({key: value for key, value in flat if not key.startswith(places)})[:8]}"


def provenance() -> dict[str, Any]:
    """Time, command (as a shell takes it), machine, versions and git commit."""
    import torch

    packages = {}
    for package in ("torch", "pytorch-lightning", "numpy", "scikit-learn", "faiss-cpu", "torchmetrics"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed"
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": typed_command(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "git_commit": _git_commit(),
        "versions": packages,
    }


def _git_commit() -> str:
    settings: Any = dict(cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True)
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **settings)
        changed = subprocess.run(["git", "status", "--porcelain"], **settings)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit.stdout.strip() + (" with uncommitted changes" if changed.stdout.strip() else "")


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(content, dict):
        return {k: v for key, value in content.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): content}
