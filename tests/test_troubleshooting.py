# SPDX-License-Identifier: MIT
"""docs/troubleshooting.md is what the code says."""

import ast

from tests import troubleshooting


def test_the_page_is_made_of_the_code():
    assert troubleshooting.PAGE.read_text(encoding="utf-8") == troubleshooting.page(), "make docs makes it anew"


def test_a_message_is_read_with_the_names_that_lead_to_it(tmp_path):
    (tmp_path / "made.py").write_text(
        """
LIMIT = "at most 3"
def check(path, n):
    cure = "lower it"
    if n < 0:
        cure = "raise it"
        raise InputError(f"{path} with {len(n)} of {path.name!r}", "at least 0", cure)
    got = f"n = {n}"
    got += " or more" if n else ""
    raise InputError(got, LIMIT, nearest(n, [], cure))
"""
    )
    assert list(troubleshooting.messages(tmp_path / "made.py")) == [
        ("PATH with ... of NAME", "at least 0", "raise it"),
        ("n = N or more", "at most 3", "lower it; did you mean ...?"),
    ]


def test_every_call_is_on_the_page():
    page, known = troubleshooting.PAGE.read_text(encoding="utf-8"), 0
    for package in ("datamodules", "lightning_modules", "callbacks", "experiments"):
        for file in (troubleshooting.ROOT / package).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "InputError" and len(call.args) == 3:
                    text = call.args[0]
                    if isinstance(text, ast.Constant):
                        known += 1
                        assert f"`{text.value}`" in page, text.value
    assert known > 20
