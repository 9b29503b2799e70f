# SPDX-License-Identifier: MIT
"""Opens the data of a configuration, and checks sizes and seeds."""

import hashlib
import json
import logging
import math
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError, nearest
from datamodules.splits import check_size, clusters_for, split_identities
from experiments.command_line.choices import CONFIGS, differing, files

log = logging.getLogger(__name__)

STALE_SECONDS = 3600.0  # a set that is being written changes more often


def open_data(cfg: DictConfig, sizes: list[int] | None) -> EmbeddingSet:
    """Opens the set that the configuration names; a generated set is first written into `<runs_dir>/data`.

    Args:
        cfg: with data, split and runs_dir. `data` builds an EmbeddingSet, or an object with `write(path)`.
        sizes: the N of the run; a generated set is made large enough for the largest.

    Raises:
        InputError: see `EmbeddingSet.open`.
    """
    check_split(cfg.split)
    node = OmegaConf.to_container(cfg.data, resolve=True, throw_on_missing=True)
    if sizes and "n_identities" in node:
        node["n_identities"] = math.ceil(max(sizes) / (1 - cfg.split.held_out))
    made = instantiate(node)
    if isinstance(made, EmbeddingSet):
        return made
    digest = hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()[:10]
    folder = Path(cfg.runs_dir) / "data" / f"synthetic-{node['n_identities']}-{digest}"
    remove_stale(folder.parent)
    return EmbeddingSet.open(folder, check_values=False) if folder.exists() else made.write(folder)


def check_early(cfg: DictConfig, opened: EmbeddingSet | None) -> None:
    """Refuses, with an `InputError`, scenarios, splits, seeds and sizes that can be seen to be unusable at once."""
    if cfg.refit and cfg.get("evaluate") == "validation":
        cure = "choose on validation images first, then compare with refit= on test images"
        raise InputError("refit= beside evaluate=validation", "one of them", cure)
    names = cfg.scenarios if "scenarios" in cfg else cfg.scenario.name
    check_names([names] if isinstance(names, str) else list(names))
    check_split(cfg.split)
    as_seeds(cfg.get("seeds", [0]))
    sizes = as_sizes(cfg.n_identities, "n_identities")
    if opened is not None:
        held_out = round(opened.n_identities * cfg.split.held_out)
        for n in (sizes := sizes or [opened.n_identities - held_out]):
            check_size(n, opened.n_identities, held_out)
    if sizes and not cfg.get("run"):
        subnets_for(sizes, cfg.n_subnets)
    elif cfg.n_subnets != "auto":
        as_sizes(cfg.n_subnets, "n_subnets")


def check_names(names: list[str]) -> None:
    """Refuses, with an `InputError`, no scenarios, one twice, and an unknown one; rows of overrides are not read."""
    known = [*files("scenario"), *files("baseline")]
    if not names or len(set(names)) < len(names):
        raise InputError(f"scenarios = {names}", "at least one, none twice", "name each once, see experiments.list")
    for name in map(str, names):
        if "=" not in name and name not in (*known, "*", "all"):
            expected = f"one of {', '.join(known)}; overrides such as loss.margin=0.3; or all"
            cure = nearest(name, known, f"correct the name or add {name}.yaml")
            raise InputError(f"scenario {name!r}", expected, cure)


def remove_stale(folder: Path) -> None:
    """Removes unfinished generated sets of killed processes; one changed in the last hour may be in work, and stays."""
    for unfinished in folder.glob(".synthetic-*.tmp"):
        with suppress(OSError):  # finished, or removed by another process
            if time.time() - max(part.stat().st_mtime for part in (unfinished, *unfinished.iterdir())) > STALE_SECONDS:
                shutil.rmtree(unfinished)
                log.info("removed %s, left unfinished by a process that was killed", unfinished)


def check_split(split: DictConfig) -> None:
    """Refuses shares and counts out of range.

    Raises:
        InputError: held_out outside [0, 1), or fewer than one test image.
    """
    if not 0 <= split.held_out < 1:
        raise InputError(f"split.held_out = {split.held_out}", "a share from 0 to below 1", "choose about 0.1 to 0.2")
    for key in ("max_test_images", "max_test_probes"):
        if split[key] is not None and split[key] < 1:
            raise InputError(f"split.{key} = {split[key]}", "at least 1, or null", "correct it")


def check_testable(
    embedding_set: EmbeddingSet, split: DictConfig, sizes: list[int], seed: int, on: str = "test"
) -> None:
    """Checks, before a run begins, that each N can be enrolled and tested, `on` test or validation images.

    Raises:
        InputError: an N out of range, or no identity with images enough.
    """
    for n in sizes:
        splits = split_identities(embedding_set, n, seed, **split)
        if not len(splits.test if on == "test" else splits.val):
            few, least = ("a single image", "two") if on == "test" else ("fewer than four images", "four")
            raise InputError(
                f"no {on} image: each of the {n} identities has {few}", f"an identity with {least} images or more",
                "use a set with more images per identity, or a larger n_identities",
            )  # fmt: skip


def dataset_name(embedding_set: EmbeddingSet) -> str:
    """The name in results.csv: "synthetic" with the arguments that are not default, or the folder's name."""
    if made_with := embedding_set.meta.get("synthetic"):
        usual = OmegaConf.to_container(OmegaConf.load(CONFIGS / "data" / "synthetic.yaml"))
        other = [d for d in differing(made_with, usual) if not d.startswith("n_identities=")]
        return f"synthetic({','.join(other)})" if other else "synthetic"
    return embedding_set.path.resolve().name if embedding_set.path else "memory"


def as_sizes(value: Any, what: str) -> list[int] | None:
    """A positive whole number or a list of them as a list; None stays None.

    Raises:
        InputError: anything else.
    """
    if value is None:
        return None
    values = _as_list(value)
    if not _whole_numbers(values, 1):
        expected = f"{'auto, ' if what == 'n_subnets' else ''}a positive whole number or a list of them"
        raise InputError(f"{what} = {value}", expected, f"write {what}={'2' if what == 'n_subnets' else '[1000,2000]'}")
    if len(set(values)) < len(values) and what != "n_subnets":
        raise InputError(f"{what} = {values}", "no value twice", f"name each {what} once")
    return values


def as_seeds(value: Any) -> list[int]:
    """A number of repetitions n as seeds 0 to n - 1; a list as it is.

    Raises:
        InputError: no seed, a seed twice, or anything that is not a whole number from 0 on.
    """
    seeds = list(range(value)) if type(value) is int else _as_list(value)
    if not _whole_numbers(seeds, 0) or len(set(seeds)) < len(seeds):
        expected = "a number of repetitions or a list of seeds"
        raise InputError(f"seeds = {value}", expected, "write seeds=3 or seeds=[0,1,2]")
    return seeds


def _as_list(value: Any) -> list[Any]:
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return plain if isinstance(plain, list) else [plain]


def _whole_numbers(values: list[Any], least: int) -> bool:
    return bool(values) and all(type(value) is int and value >= least for value in values)  # a bool is none


def subnets_for(sizes: list[int], n_subnets: Any) -> list[int]:
    """m for each N: as given, or by the rule of the paper, see `datamodules.splits.clusters_for`.

    Args:
        n_subnets: "auto", one m, or one m per N.

    Raises:
        InputError: lists of different lengths, or m > N.

    >>> subnets_for([1000, 5000, 8900, 50000], "auto")
    [2, 2, 4, 25]
    """
    if n_subnets == "auto":
        return [clusters_for(n) for n in sizes]
    given = as_sizes(n_subnets, "n_subnets")
    given = given * len(sizes) if given is not None and len(given) == 1 else given
    if given is None or len(given) != len(sizes):
        got = f"n_subnets = {given} with {len(sizes)} N ({', '.join(map(str, sizes))})"
        cure = f"make the lists equally long; for several m at each N: -m n_subnets={','.join(map(str, given or ()))}"
        raise InputError(got, "auto, one m, or one m per N of n_identities", cure)
    for n, m in zip(sizes, given, strict=True):
        if m > n:
            cure = "lower n_subnets or enrol more identities"
            raise InputError(f"n_subnets = {m} for {n} identities", f"at most {n}", cure)
    return given
