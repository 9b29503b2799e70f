# SPDX-License-Identifier: MIT
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.splits import split_identities, split_sizes

ROLES = ("train", "val", "test")


def set_with(counts):
    """An EmbeddingSet in memory whose identity k has counts[k] samples; only labels matter."""
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return EmbeddingSet(np.ones((len(labels), 2), np.float16), labels, tuple(map(str, range(len(counts)))))


def test_sizes_are_those_of_the_stated_rule():
    # By hand: 60 / 20 / 20 from five images on; two parts are rounded, the third is the rest.
    stated = {
        1: (1, 0, 0),
        2: (1, 0, 1),
        3: (2, 0, 1),
        4: (2, 1, 1),
        5: (3, 1, 1),
        10: (6, 2, 2),
        15: (9, 3, 3),
        100: (60, 20, 20),
    }
    found = zip(*split_sizes(np.array(list(stated))), strict=True)
    assert [tuple(map(int, sizes)) for sizes in found] == list(stated.values())


def test_sizes_sum_up_and_stay_within_half_an_image_of_a_fifth():
    counts = np.arange(1, 2000)
    train, val, test = split_sizes(counts)
    assert np.array_equal(train + val + test, counts) and (train >= 1).all()
    assert (np.abs(test - counts / 5)[4:] <= 0.5).all() and np.array_equal(test[4:], val[4:])


counts_of_some = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(counts_of_some, st.integers(0, 5))
def test_every_sample_has_one_role_and_every_identity_its_share(counts, seed):
    splits = split_identities(set_with(counts), seed=seed, max_test_images=None)
    parts = [getattr(splits, role) for role in ROLES]
    assert sorted(np.concatenate([part.rows for part in parts]).tolist()) == list(range(sum(counts)))
    for part, sizes in zip(parts, split_sizes(np.array(counts)), strict=True):
        assert np.array_equal(np.bincount(part.labels, minlength=len(counts)), sizes)
        assert np.array_equal(set_with(counts).labels[part.rows], splits.enrolled[part.labels])
        assert (np.diff(part.rows) > 0).all() and (np.diff(part.labels) >= 0).all() and len(part) == len(part.rows)


@given(counts_of_some, st.integers(1, 6))
def test_at_most_so_many_test_images_are_kept_and_nothing_else_changes(counts, most):
    everything, cut = (split_identities(set_with(counts), seed=1, max_test_images=m) for m in (None, most))
    assert np.array_equal(everything.train.rows, cut.train.rows) and np.array_equal(everything.val.rows, cut.val.rows)
    sizes = np.minimum(split_sizes(np.array(counts))[2], most)
    assert np.array_equal(np.bincount(cut.test.labels, minlength=len(counts)), sizes)
    assert set(cut.test.rows) <= set(everything.test.rows)


def test_a_single_image_is_enrolled_and_never_tested():
    splits = split_identities(set_with([1, 9, 1]))
    assert splits.n_identities == 3 and {0, 2} <= set(splits.train.labels.tolist())
    assert set(splits.test.labels.tolist()) == {1}


def by_identity(splits, role):
    part = getattr(splits, role)
    return {int(splits.enrolled[k]): part.rows[part.labels == k].tolist() for k in range(splits.n_identities)}


def test_a_larger_draw_contains_the_smaller_and_splits_it_alike():
    data = set_with(np.random.default_rng(0).integers(1, 20, size=30))
    small, large = split_identities(data, 8, seed=3), split_identities(data, 20, seed=3)
    assert len(small.enrolled) == 8 and set(small.enrolled) < set(large.enrolled)
    for role in ROLES:
        in_large = by_identity(large, role)
        assert all(rows == in_large[identity] for identity, rows in by_identity(small, role).items())


def test_the_seed_decides_who_is_drawn_and_how_images_are_shared_out():
    data = set_with([10] * 30)
    first, again, other = (split_identities(data, 10, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(getattr(first, role).rows, getattr(again, role).rows) for role in ROLES)
    assert not np.array_equal(first.enrolled, other.enrolled)
    everybody = [split_identities(data, seed=seed).test.rows for seed in (1, 2)]
    assert not np.array_equal(*everybody)


def test_held_out_identities_are_unknown_and_complete():
    counts = np.random.default_rng(0).integers(1, 12, size=20)
    data = set_with(counts)
    splits = split_identities(data, held_out=0.25, seed=4)
    assert splits.n_identities == 15
    unknown = np.unique(data.labels[splits.unknown.rows])
    assert len(unknown) == 5 and not set(unknown) & set(splits.enrolled)
    assert len(splits.unknown) == counts[unknown].sum()
    assert np.array_equal(unknown[splits.unknown.labels], data.labels[splits.unknown.rows])
    assert len(split_identities(data).unknown) == 0


def test_who_is_unknown_does_not_depend_on_how_many_are_enrolled():
    data = set_with([6] * 20)
    few, many = (split_identities(data, n, seed=1, held_out=0.25).unknown.rows for n in (4, 15))
    assert np.array_equal(few, many)


def test_holding_out_does_not_change_who_is_enrolled_beside():
    data = set_with([6] * 20)
    without, beside = split_identities(data, 8, seed=1), split_identities(data, 8, seed=1, held_out=0.5)
    assert np.array_equal(without.enrolled, beside.enrolled) and np.array_equal(without.test.rows, beside.test.rows)


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=12), min_size=1, max_size=6), st.integers(0, 3))
def test_copies_of_one_image_stay_on_one_side_and_only_originals_are_tested(copies, seed):
    # copies[k][g] rows of identity k show the same image; the first of them is the original.
    data = set_with([sum(one) for one in copies])
    groups = np.concatenate([np.repeat(np.arange(len(one)), one) for one in copies])
    groups = groups + 1000 * data.labels
    splits = split_identities(data, seed=seed, max_test_images=None, groups_N=groups)
    role_of = np.full(len(data), "", dtype=object)
    for role in ROLES:
        role_of[getattr(splits, role).rows] = role
    originals = np.unique(groups, return_index=True)[1]
    for group in np.unique(groups):
        assert len(set(role_of[groups == group]) - {""}) == 1
    for role in ("val", "test"):
        assert set(getattr(splits, role).rows) <= set(originals)
    shares = split_sizes(np.array([len(one) for one in copies]))
    for role, sizes in zip(ROLES, shares, strict=True):
        chosen = originals[role_of[originals] == role]
        assert np.array_equal(np.bincount(data.labels[chosen], minlength=len(copies)), sizes)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(n_identities=0), "1 to 10"),
        (dict(n_identities=11), "1 to 10"),
        (dict(n_identities=10, held_out=0.2), "1 to 8 beside 2 held out"),
        (dict(held_out=1.0), "share"),
        (dict(held_out=-0.1), "share"),
        (dict(held_out=float("nan")), "share"),
        (dict(max_test_images=-1), "max_test_images"),
    ],
    ids=str,
)
def test_impossible_requests_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        split_identities(set_with([5] * 10), **arguments)


def test_of_many_test_images_a_random_few_stand_for_all():
    data = set_with([10] * 50)
    all_of_them, few = split_identities(data, seed=3), split_identities(data, seed=3, max_test_probes=20)
    assert len(all_of_them.test) == 100 and len(few.test) == 20
    truth = dict(zip(all_of_them.test.rows.tolist(), all_of_them.test.labels.tolist(), strict=True))
    assert [truth[row] for row in few.test.rows.tolist()] == few.test.labels.tolist() == sorted(few.test.labels)
    assert np.array_equal(few.train.rows, all_of_them.train.rows) and np.array_equal(few.val.rows, all_of_them.val.rows)
    assert len(set(few.test.labels.tolist())) > 10, "drawn over all identities"
    assert not np.array_equal(few.test.rows, split_identities(data, seed=4, max_test_probes=20).test.rows)
    assert np.array_equal(split_identities(data, seed=3, max_test_probes=100).test.rows, all_of_them.test.rows)
    with pytest.raises(InputError, match="max_test_probes"):
        split_identities(data, max_test_probes=0)
