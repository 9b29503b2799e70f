# SPDX-License-Identifier: MIT
"""For the reference: the comment behind a field of a dataclass is its docstring, `index: np.ndarray  # (B,) int64`."""

import re

import griffe

COMMENT = re.compile(r"  # (?!fmt:|noqa|type:)(.+)$")


class Comments(griffe.Extension):
    """Gives each attribute of a class without docstring the comment at the end of its line."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_) -> None:
        if attr.docstring is None and attr.lineno and attr.parent.is_class and not attr.name.startswith("_"):
            if found := COMMENT.search(attr.parent.module.lines_collection[attr.filepath][attr.lineno - 1]):
                attr.docstring = griffe.Docstring(found[1], lineno=attr.lineno, parent=attr)
