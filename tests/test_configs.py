# SPDX-License-Identifier: MIT
"""Configuration files and classes fit: keys reach constructors, classes can be chosen, roots are closed."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import hydra
import pytest
import torch
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import Callback

from datamodules.errors import InputError
from experiments.command_line.trainer_arguments import check_trainer
from lightning_modules import schedulers

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "experiments" / "configs"
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")
ROOTS = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
GROUP_FILES = sorted(f"{file.parent.name}/{file.stem}" for file in CONFIGS.glob("*/*.yaml"))

VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)

# The base class of each group; a group that is not listed has none.
BASES = {
    "loss": "lightning_modules.losses.base.ClassificationLoss",
    "init": "lightning_modules.initialisers.Initialiser",
    "head": "lightning_modules.heads.base.Head",
    "active_classes": "lightning_modules.active_classes.ActiveClasses",
    "router": "lightning_modules.routers.base.Router",
    "decision": "lightning_modules.decisions.base.Decision",
    "metric": "lightning_modules.metrics.base.Metric",
    "index": "lightning_modules.indexes.base.ClassIndex",
    "partitioner": "datamodules.partitioners.base.Partitioner",
    "extractor": "datamodules.extractors.base.Extractor",
    "source": "datamodules.sources.base.Source",
    "alignment": "datamodules.alignment.Aligner",
    "baseline": "lightning_modules.baselines.base.Baseline",
    "launcher": "experiments.training.launchers.base.Launcher",
    "logger": "experiments.runs.tracking.Tracking",
}
# Where the classes of a group stand, if not anywhere: sharded training and baselines make heads of their own.
WITHIN = {"head": "lightning_modules.heads."}


def content(name):
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))


# Files that build something; scenarios are plain data.
CHOICES = [name for name in GROUP_FILES if "_target_" in content(name)]


@pytest.mark.parametrize("name", GROUP_FILES + ROOTS)
def test_the_first_line_says_what_the_file_is(name):
    lines = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    place = lines.pop(0) if lines[0].startswith("# @package ") else None  # Hydra reads it
    assert lines[0].startswith("# ") and len(lines[0]) > 8
    # Several callbacks are chosen at once: each needs a name of its own.
    assert not name.startswith("callbacks/") or place == f"# @package {name.replace('/', '.')}"


def arguments(target):
    """Arguments of a function or a constructor; what a constructor passes on as **more is looked up in its base."""
    found = {}
    for one in target.__mro__ if inspect.isclass(target) else [target]:
        if inspect.isclass(one) and "__init__" not in vars(one):
            continue
        own = inspect.signature(one.__init__ if inspect.isclass(one) else one).parameters
        own = {name: argument for name, argument in own.items() if name != "self"}
        if one in (object, torch.nn.Module):
            break
        found = own | found
        if not any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in own.values()):
            break
    return {name: argument for name, argument in found.items() if argument.kind not in VARIABLE}


@pytest.mark.parametrize("name", CHOICES)
def test_keys_are_arguments_of_what_is_built_and_none_is_lacking(name):
    keys = content(name)
    target, partial = get_object(keys.pop("_target_")), keys.pop("_partial_", False)
    taken = arguments(target)
    assert set(keys) <= set(taken)
    needed = {name for name, argument in taken.items() if argument.default is argument.empty}
    assert partial or needed <= set(keys)


NUMBERS = ("loss", "partitioner", "router", "decision", "index", "metric")
REACHING = [name for name in CHOICES if name.partition("/")[0] in NUMBERS]


@pytest.mark.parametrize("name", REACHING)
def test_every_number_arrives_in_the_built_object(name):
    def state(**changes):
        built = instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"), **changes)
        return {key: value for key, value in vars(built).items() if isinstance(value, (bool, int, float, str, tuple))}

    for key, value in content(name).items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                assert state(**{key: 0.9 * value + 0.07 if isinstance(value, float) else value + 1}) != state(), key
            except HydraException as error:
                assert key in str(error.__cause__)  # refused: so it arrived


def concrete_classes(base):
    """Classes of ours below a base that can be built, are not private and not the base of another."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] in PACKAGES:
                    raise
    found, waiting = set(), [base]
    while waiting:
        one = waiting.pop()
        below = [each for each in one.__subclasses__() if each.__module__.partition(".")[0] in PACKAGES]
        waiting += below
        if not below and not inspect.isabstract(one) and not one.__name__.startswith("_"):
            found.add(one)
    return found - {base}


@pytest.mark.parametrize("group", BASES)
def test_every_class_of_a_group_has_a_file_and_every_file_a_class_of_the_group(group):
    base = get_object(BASES[group])
    targets = {get_object(content(name)["_target_"]) for name in GROUP_FILES if name.startswith(f"{group}/")}
    assert all(issubclass(target, base) for target in targets)
    within = {one for one in concrete_classes(base) if one.__module__.startswith(WITHIN.get(group, ""))}
    assert within - targets == set()


def test_every_schedule_of_ours_has_a_file_and_other_files_name_schedulers_of_torch():
    targets = {get_object(content(name)["_target_"]) for name in CHOICES if name.startswith("scheduler/")}
    ours = {
        one for one in vars(schedulers).values() if inspect.isfunction(one) and one.__module__ == schedulers.__name__
    }
    assert ours and ours <= targets
    assert all(issubclass(one, torch.optim.lr_scheduler.LRScheduler) for one in targets - ours)


@pytest.mark.parametrize("name", [name for name in GROUP_FILES if name.startswith("callbacks/")])
def test_callbacks_are_those_of_lightning_and_several_can_be_chosen(name):
    _, _, file = name.partition("/")
    assert isinstance(instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml")), Callback)
    other = next(one.partition("/")[2] for one in CHOICES if one.startswith("callbacks/") and one != name)
    chosen = compose("compare", f"callbacks=[{file},{other}]").callbacks
    assert list(chosen) == [file, other] and chosen[file] == OmegaConf.load(CONFIGS / f"{name}.yaml")


@pytest.mark.parametrize("name", [name for name in GROUP_FILES if name.startswith("trainer/")])
def test_a_trainer_file_holds_arguments_and_builds_nothing(name):
    keys = content(name)
    assert keys and "_target_" not in keys
    check_trainer(keys)
    with pytest.raises(InputError, match="max_epoch"):
        check_trainer({**keys, "max_epoch": 1})


def compose(name, *arguments):
    importlib.import_module(f"experiments.{name}")
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose(name, list(arguments))


CHOSEN = {"prepare": ["extractor=random_projection"]}  # groups that the user must choose from


@pytest.mark.parametrize("name", ROOTS)
def test_a_root_composes_and_takes_no_other_key(name):
    assert compose(name, *CHOSEN.get(name, []))
    with pytest.raises((HydraException, OmegaConfBaseException)):
        compose(name, *CHOSEN.get(name, []), "nothing_of_this_name=1")


@pytest.mark.parametrize("name", ROOTS)
def test_every_root_is_a_command_and_its_help_names_every_key(name):
    template = content(name)["hydra"]["help"]["template"]
    assert f"python -m experiments.{name}" in template
    unnamed = [
        key for key in compose(name, *CHOSEN.get(name, [])) if f"{key}=" not in template and f"{key}." not in template
    ]
    assert unnamed == []


def test_every_choice_can_be_made_on_the_command_line():
    groups = set(compose("compare"))
    for choice in CHOICES:
        group, _, file = choice.partition("/")
        if group in groups and group != "callbacks":  # of which several are chosen
            chosen = compose("compare", f"{group}={file}")[group]
            assert chosen._target_ == content(choice)["_target_"]


@pytest.mark.parametrize("name", [name.partition("/")[2] for name in GROUP_FILES if name.startswith("scenario/")])
def test_a_scenario_names_files_that_exist_and_can_be_built(name):
    from experiments.comparison.rows import scenario_of_row

    scenario = scenario_of_row(name, compose("compare", "data=embedding_set"))
    assert scenario.title and scenario.name == name
    for group, node in scenario.nodes.items():
        if node is not None:
            assert node["_target_"] == content(f"{group}/{scenario.names[group].partition('(')[0]}")["_target_"]


def test_the_paper_s_scenarios_are_there():
    names = {name.partition("/")[2] for name in GROUP_FILES if name.startswith("scenario/")}
    assert names >= {"no_distribution", "ism", "random_nearest", "knn", "clustered_maxmax", "clustered_nearest"}


def test_struct_mode_is_nowhere_switched_off():
    for file in ROOT.glob("experiments/**/*.py"):
        text = file.read_text(encoding="utf-8")
        assert "set_struct" not in text and "open_dict" not in text, file


def test_an_error_of_a_file_is_an_input_error():
    from experiments.comparison.rows import scenario_of_row

    with pytest.raises(InputError, match="knn"):
        scenario_of_row("no_such_scenario", compose("compare", "data=embedding_set"))
