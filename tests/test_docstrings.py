# SPDX-License-Identifier: MIT
"""Examples in docstrings give what they show, and the check of `make lint` finds what it is for."""

import ast
import doctest
import importlib

import pytest

from tests.docstrings import FILES, ROOT, foreign, mistakes

WITH_EXAMPLES = [file for file in FILES if ">>>" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=lambda file: str(file.relative_to(ROOT)))
def test_examples_give_what_they_show(file):
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(module)
    assert result.failed == 0 and result.attempted > 0


def test_missing_shapes_units_and_errors_are_found():
    def of(text):
        return mistakes("f", ast.parse(text).body[0])

    assert of('def f(a: Tensor):\n    """Of a."""') == ["f: no shape of a"]
    assert of('def f(a_BD: Tensor) -> Tensor:\n    """Of a_BD."""') == ["f: no shape of what it returns"]
    assert of('def f(a: Tensor) -> Tensor:\n    """(B, D) of a."""') == []
    assert of('def f(a):\n    """Of a."""\n    raise InputError(a, a, a)') == ["f: no Raises"]
    assert of('def f(a):\n    """See `g`."""') == []
    assert of('def f(margin: float, b):\n    """Of b.\n\n    margin: m.\n    b: 1 radian."""') == [
        "f: no unit of margin"
    ]
    assert of('def f(margin: float):\n    """Of a\n\n    margin: m, in\n        radians."""') == []


def test_arguments_that_there_are_not_are_found():
    text = "F.\n\n    Args:\n        a: x.\n            more: of a.\n        *c: z.\n    "
    right = f'def f(a, b=1, *c, **d):\n    """{text}"""'
    assert foreign(right) == [] and foreign(right.replace("a: x", "q: x"))
    assert foreign(right.replace("a: x.", "d: x.").replace("*c: z", "a: z"))  # another order
    assert foreign('class A:\n    """A.\n\n    Args:\n        a: x.\n    """\n    def __init__(self, b): pass')
    assert not foreign(
        'class A:\n    """A.\n\n    Args:\n        a, b: x.\n    """\n    def __init__(self, a, b): pass'
    )
