# SPDX-License-Identifier: MIT
"""New people and pictures in the folder of a finished set."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from datamodules.errors import InputError
from tests.experiments.extraction.test_extract import SIZE, Watched, assert_right, contents, pictures, run


def some_pictures(root: Path) -> Path:
    pictures(root, {"bert": 6, "dora": 2})
    (root / "bert/3.png").write_bytes(b"")
    return root


def more_pictures(root: Path) -> None:
    pictures(root, {"anna": 1, "carl": 6}, seed=1)
    others = pictures(root.parent / "others", {"dora": 3}, seed=2)
    for number in range(3):  # dora has new pictures before and after the old ones
        shutil.move(others / f"dora/{number}.png", root / f"dora/{'a' if number else '-'}{number}.png")
    (root / "anna/x.png").write_bytes(b"")
    Image.new("RGB", (SIZE, SIZE)).save(root / "bert/black.png")


@pytest.mark.parametrize("fail_after", [None, 0, 6, 12])
def test_new_people_and_pictures_are_added_to_a_finished_set(tmp_path, fail_after):
    root = some_pictures(tmp_path / "faces")
    before = contents(run(root, tmp_path / "set").path)
    more_pictures(root)
    if fail_after is not None:
        with pytest.raises(RuntimeError, match="killed"):
            run(root, tmp_path / "set", Watched(fail_after=fail_after))
        assert contents(tmp_path / "set") == before  # a set stays whole until the larger one is
    made = run(root, tmp_path / "set", second := Watched())
    assert contents(made.path) == contents(run(root, tmp_path / "afresh", everything := Watched()).path)
    assert second.embedded <= everything.embedded - 7  # the seven pictures that could be used were not embedded again
    assert_right(made, root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["afresh", "faces", "others", "set"]


def test_nothing_leaves_a_set_because_its_pictures_are_gone(tmp_path):
    root = some_pictures(tmp_path / "faces")
    before = contents(run(root, tmp_path / "set").path)
    more_pictures(root)
    (root / "bert/4.png").unlink()
    with pytest.raises(InputError, match=r"made with images that are not there now \(1, first: bert/4.png\)"):
        run(root, tmp_path / "set")
    assert contents(tmp_path / "set") == before
