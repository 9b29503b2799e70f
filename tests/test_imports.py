# SPDX-License-Identifier: MIT
"""Who may import whom: datamodules <- lightning_modules <- callbacks <- experiments, no cycles, no command imported."""

import ast
import itertools
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEVEL = {"datamodules": 0, "lightning_modules": 1, "callbacks": 2, "experiments": 3}
FILES = sorted(file for package in LEVEL for file in (ROOT / package).rglob("*.py"))
COMMANDS = {file.stem for file in (ROOT / "experiments").glob("*.py")} - {"__init__"}


def module_name(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file, top_level_only=False):
    """Names of the modules that a file imports, ours and others."""
    nodes = tree(file).body if top_level_only else ast.walk(tree(file))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(name):
    return name.partition(".")[0]


def test_there_is_something_to_look_at():
    assert len(FILES) > 50 and {"compare", "train", "identify"} <= COMMANDS


def test_packages_import_only_what_stands_below_them():
    wrong = [
        f"{module_name(file)} imports {name}"
        for file in FILES
        for name in imported(file)
        if package(name) in LEVEL and LEVEL[package(name)] > LEVEL[package(module_name(file))]
    ]
    assert wrong == []


def test_nothing_imports_a_command():
    wrong = [
        f"{module_name(file)} imports {name}"
        for file in FILES
        for name in imported(file)
        if name.startswith("experiments.") and name.split(".")[1] in COMMANDS
    ]
    assert wrong == []


def test_nothing_of_the_project_imports_the_tests():
    assert [module_name(file) for file in FILES for name in imported(file) if package(name) == "tests"] == []


def test_modules_do_not_import_each_other_in_a_circle():
    names = {module_name(file): file for file in FILES}
    below = {
        name: {other for other in imported(file) if other in names and other != name} for name, file in names.items()
    }
    done, path = set(), []

    def visit(name):
        if name in path:
            pytest.fail(" -> ".join([*path[path.index(name) :], name]))
        if name not in done:
            path.append(name)
            for other in sorted(below[name]):
                visit(other)
            path.pop()
            done.add(name)

    for name in names:
        visit(name)


# Inside experiments: each folder imports only what is before it. The side systems do not know each other's parts, but
# for the embedding of pictures.
ROOMS = (
    "command_line", "reporting", "training", "runs", "comparison", "extraction", "picture_identification", "enrolment",
    "verification", "facenet", "image_clustering", "label_clusters", "benchmarks",
)  # fmt: skip


def test_the_rooms_of_experiments_import_only_earlier_ones():
    rooms = {path.name for path in (ROOT / "experiments").iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ROOMS)
    wrong = [
        f"{module_name(file)} imports {name}"
        for file in FILES
        for name in imported(file)
        if len(parts := module_name(file).split(".")) > 2 and name.startswith("experiments.")
        and (room := name.split(".")[1]) in rooms and ROOMS.index(room) > ROOMS.index(parts[1])
    ]  # fmt: skip
    assert wrong == []


def test_only_commands_and_their_frame_print():
    may = {f"experiments.{name}" for name in COMMANDS} | {
        "experiments.command_line.command",
        "experiments.command_line.errors",
        "experiments.command_line.terminal",
    }
    printing = {
        module_name(file)
        for file, node in itertools.chain.from_iterable(
            ((file, node) for node in ast.walk(tree(file))) for file in FILES
        )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing - may == set()


def test_every_file_states_its_licence_first():
    without = [
        str(file.relative_to(ROOT))
        for file in [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]
        if file.stat().st_size and not file.read_text(encoding="utf-8").startswith("# SPDX-License-Identifier: MIT\n")
    ]
    assert without == []
