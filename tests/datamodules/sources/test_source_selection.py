# SPDX-License-Identifier: MIT
"""Which images are used, and the copies for identities with few of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import InputError
from datamodules.sources.base import (
    NAMES,
    Listing,
    Source,
    apply_mark,
    copy_names,
    groups_of,
    is_copy,
    original_of,
    unwritable,
)


class Counted(Source):
    """Identities 00, 01, ... with given numbers of images."""

    def __init__(self, counts, **options):
        super().__init__(**options)
        self.counts = counts

    def scan(self):
        names = [f"{k:02d}/{i}.png" for k, count in enumerate(self.counts) for i in range(count)]
        labels = np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)
        return Listing(np.array(names, NAMES), labels, tuple(f"{k:02d}" for k in range(len(self.counts))))

    def read(self, name):
        raise NotImplementedError

    def describe(self):
        return "made up"


def test_everything_is_taken_by_default():
    listing = Counted([3, 1, 2]).listing()
    assert listing.names.tolist() == ["00/0.png", "00/1.png", "00/2.png", "01/0.png", "02/0.png", "02/1.png"]
    assert listing.labels.tolist() == [0, 0, 0, 1, 2, 2]


def test_a_smaller_draw_is_contained_in_a_larger_one():
    drawn = [set(Counted([2] * 50, n_identities=n, seed=3).listing().identities) for n in (5, 20, 50)]
    assert [len(names) for names in drawn] == [5, 20, 50] and drawn[0] < drawn[1] < drawn[2]
    assert drawn[0] != set(Counted([2] * 50, n_identities=5, seed=4).listing().identities)


def test_labels_stay_without_gaps_and_belong_to_their_names():
    listing = Counted([2] * 30, n_identities=7).listing()
    assert np.unique(listing.labels).tolist() == list(range(7))
    assert all(
        listing.identities[label] == name.split("/")[0]
        for name, label in zip(listing.names, listing.labels, strict=True)
    )


def test_images_of_an_identity_do_not_depend_on_the_others():
    alone = Counted([9, 9], images_per_identity=4, seed=1).listing()
    among = Counted([9, 9, 30, 40], images_per_identity=4, seed=1).listing()
    assert alone.names.tolist() == among.names.tolist()[:8]
    assert np.bincount(among.labels).tolist() == [4, 4, 4, 4]


def test_identities_with_too_few_images_are_left_out():
    assert Counted([1, 5, 2, 7], min_images=3).listing().identities == ("01", "03")


@pytest.mark.parametrize("names, words", [(("a", "unknown"), "'unknown'"), (("a", "a"), "2 identities called 'a'")])
def test_names_that_make_answers_ambiguous_are_refused(monkeypatch, names, words):
    found = Counted([1, 1]).scan()
    monkeypatch.setattr(Counted, "scan", lambda self: Listing(found.names, found.labels, names))
    with pytest.raises(InputError, match=words):
        Counted([1, 1]).listing()
    if "unknown" in names:
        source = Counted([1, 1], unknown="nobody")
        assert source.listing().identities == names and source.provenance()["unknown"] == "nobody"


@pytest.mark.parametrize("options", [{"n_identities": 4}, {"min_images": 8}])
def test_more_than_there_is_is_refused(options):
    with pytest.raises(InputError, match="identities with at least"):
        Counted([5, 6, 7], **options).listing()


@pytest.mark.parametrize("options", [{"n_identities": 0}, {"images_per_identity": 0}, {"top_up_to": -1}, {"seed": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError, match=f"source.{next(iter(options))}"):
        Counted([1], **options)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=6), st.integers(0, 9), st.integers(0, 5))
def test_copies_fill_up_every_identity_and_are_distinct(counts, top_up_to, seed):
    source = Counted(counts, top_up_to=top_up_to, seed=seed)
    usable = source.listing()
    copies = source.copies(usable)
    in_all = np.bincount(usable.labels) + np.bincount(copies.labels, minlength=len(counts))
    assert in_all.tolist() == [max(count, top_up_to) for count in counts]
    names = copies.names.tolist()
    assert len(set(names)) == len(names) and all(map(is_copy, names))
    originals = set(usable.names.tolist())
    for name, label in zip(names, copies.labels, strict=True):
        assert original_of(name) in originals and usable.identities[label] == original_of(name).split("/")[0]
    assert source.copies(usable).names.tolist() == names


def test_a_single_image_gets_each_kind_once():
    kinds = {name.split("#")[1][:4] for name in copy_names(["a/1.jpg"], 5, seed=0, identity="a")}
    assert kinds == {"flip", "rota", "brig", "cont"}


def test_originals_take_turns():
    copies = copy_names(["a/1.jpg", "a/2.jpg"], 6, seed=0, identity="a")
    assert [original_of(name) for name in copies].count("a/1.jpg") == 2


def test_copies_depend_on_seed_and_identity():
    drawn = {tuple(copy_names(["1.jpg"], 5, seed, identity)) for seed in (0, 1) for identity in ("a", "b")}
    assert len(drawn) == 4


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("p/a.jpg#flip", "p/a.jpg"),
        ("p/a.jpg#rotate-12.5", "p/a.jpg"),
        ("p/a.jpg#brightness0.85", "p/a.jpg"),
        ("p/a.jpg#contrast1.30", "p/a.jpg"),
        ("p/a#flip.jpg", "p/a#flip.jpg"),
        ("p/a.jpg#flipped", "p/a.jpg#flipped"),
        ("p#flip/a.jpg", "p#flip/a.jpg"),
    ],
)
def test_the_original_of_a_name(name, original):
    assert original_of(name) == original and is_copy(name) == (name != original)


def test_groups_hold_an_original_and_its_copies():
    names = ["p/a", "p/b", "p/a#flip", "p/b#rotate+3.0", "p/a#contrast0.80", "q/a"]
    groups = groups_of(names)
    assert groups.tolist() == [0, 1, 0, 1, 0, 5]


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a.jpg#flip", "a\udc80"])
def test_names_that_files_txt_cannot_hold(name):
    assert unwritable(name)


def test_ordinary_names_can_be_written():
    assert unwritable("Zoë #1/ü.jpg") is None


class TestMarks:
    """What the marks do to a picture of which every pixel is known."""

    noise = np.random.default_rng(0).integers(0, 256, (31, 31, 3), np.uint8)

    def test_no_mark_no_change(self):
        assert apply_mark(self.noise, "a.jpg") is self.noise

    def test_flip_is_left_to_right(self):
        np.testing.assert_array_equal(apply_mark(self.noise, "a#flip")[5, 3], self.noise[5, 27])

    def test_rotation_turns_counter_clockwise_about_the_centre(self):
        dark = np.zeros((41, 41, 3), np.uint8)
        dark[18:23, 33:38] = 255  # right of the centre, centred at (35, 20)
        turned = apply_mark(dark, "a#rotate+15.0")[:, :, 0].astype(float)
        y, x = np.mgrid[:41, :41]
        centre = np.array([(x * turned).sum(), (y * turned).sum()]) / turned.sum()
        expected = 20 + 15 * np.array([np.cos(np.deg2rad(15)), -np.sin(np.deg2rad(15))])
        np.testing.assert_allclose(centre, expected, atol=0.15)

    def test_rotation_leaves_no_black_corners(self):
        assert apply_mark(np.full((50, 40, 3), 99, np.uint8), "a#rotate-15.0").min() == 99

    def test_brightness_multiplies(self):
        np.testing.assert_allclose(apply_mark(self.noise, "a#brightness0.80"), self.noise * 0.8, atol=1)

    def test_contrast_spreads_about_the_mean_grey(self):
        grey = np.repeat(self.noise[:, :, :1], 3, axis=2)
        mean = round(grey.astype(float).mean())
        np.testing.assert_allclose(
            apply_mark(grey, "a#contrast0.70"), mean + 0.7 * (grey.astype(float) - mean), atol=1.5
        )
