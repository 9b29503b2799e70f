# SPDX-License-Identifier: MIT
"""The checks before a commit are those of `make lint`, which CI runs before the README's test command."""

import configparser
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def recipe(target: str) -> list[str]:
    return re.search(rf"^{target}:.*\n((?:\t.*\n?)+)", MAKEFILE, re.M)[1].split("\n\t")


def test_hooks_and_make_lint_use_the_same_tools_of_the_environment():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [one["repo"] for one in hooks] == ["local"]  # nothing is fetched
    entries = [hook["entry"].replace(" --force-exclude", "") for hook in hooks[0]["hooks"]]
    linted = [line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in recipe("lint")]
    assert entries == linted and {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}


def test_ci_checks_style_and_types_and_ends_with_the_test_command():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()
    assert lines[-1] == "exec make test" and "make lint" in lines and "set -euo pipefail" in lines
    assert "make test " in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_type_checker_looks_at_the_four_packages_and_every_tool_is_pinned():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert setup["mypy"]["files"].split(", ") == ["datamodules", "lightning_modules", "callbacks", "experiments"]
    pinned = {
        line.partition("==")[0].lower().replace("-", "_")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for extra, requirements in setup["options.extras_require"].items():
        for requirement in requirements.split():
            name = re.split(r"[<>=\[]", requirement)[0].lower().replace("-", "_")
            assert requirement.startswith("%(") or name in pinned, (extra, requirement)


def test_every_target_of_the_makefile_is_described():
    targets = set(re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, re.M))
    described = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.M))
    assert targets == described >= {"help", "format", "lint", "test", "test-all", "demo", "docs"}
