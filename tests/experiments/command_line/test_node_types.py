# SPDX-License-Identifier: MIT
"""Values of Hydra nodes against the type hints of the classes that they name."""

from typing import Any, Literal

import pytest
import torch
from omegaconf import OmegaConf

from datamodules.errors import InputError
from experiments.command_line.choices import choices
from experiments.command_line.node_types import check_types


class Part:
    def __init__(
        self, count: int, share: float = 0.5, flag: bool | None = None, name: str = "", lr: float | torch.Tensor = 1.0,
        sides: tuple[float, float] = (0, 1), rule: Literal["any"] = "any", free: Any = None,
        sizes: list[str] | None = None,
    ):  # fmt: skip
        pass


NODE = {"_target_": f"{__name__}.Part"}


@pytest.mark.parametrize(
    "taken",
    [{"count": 3}, {"share": 1}, {"flag": None}, {"flag": True}, {"name": 2024}, {"lr": 0.1}, {"sides": [0, 1]},
     {"rule": "any"}, {"free": "x"}, {"sizes": None}, {"sizes": ["a"]}, {"count": "???"}, {"of_no_hint": "x"}],
    ids=str,
)  # fmt: skip
def test_what_fits_is_taken(taken):
    check_types({**NODE, **taken})


@pytest.mark.parametrize(
    ("refused", "expected"),
    [({"count": "abc"}, "a whole number"), ({"count": 1.5}, "a whole number"), ({"count": None}, "a whole number"),
     ({"count": True}, "a whole number"), ({"share": "abc"}, "a number"), ({"share": [1]}, "a number"),
     ({"flag": "yes"}, "true or false or null"), ({"lr": "abc"}, "a number"), ({"sides": "abc"}, "tuple"),
     ({"sizes": "abc"}, "null"), ({"name": None}, "a text")],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_refused(refused, expected):
    ((key, value),) = refused.items()
    with pytest.raises(InputError) as error:
        check_types({"group": {**NODE, **refused}})
    assert error.value.got == f"group.{key}={value}" and error.value.expected.startswith(expected)


def test_every_choice_fits_its_class():
    for choice in choices():
        content = OmegaConf.to_container(OmegaConf.load(choice.file))
        if isinstance(content, dict):
            check_types(content, f"{choice.group}={choice.name}: ")
