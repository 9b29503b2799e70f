# SPDX-License-Identifier: MIT
import os
import time

import pytest
from omegaconf import OmegaConf

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from experiments.comparison.data import (
    as_seeds,
    as_sizes,
    check_split,
    check_testable,
    dataset_name,
    open_data,
    remove_stale,
    subnets_for,
)


def config(**content):
    return OmegaConf.create({"split": {"held_out": 0.0, "max_test_images": 5, "max_test_probes": None}, **content})


@pytest.mark.parametrize("value, seeds", [(1, [0]), (3, [0, 1, 2]), ([7], [7]), ([4, 0], [4, 0])])
def test_a_number_of_repetitions_or_the_seeds_themselves(value, seeds):
    assert as_seeds(value) == seeds == as_seeds(OmegaConf.create({"seeds": value}).seeds)


@pytest.mark.parametrize("value", [0, -1, [], [1, 1], [-1], [1.5], ["1"], "3", None, True, [True], [1, None], {"a": 1}])
def test_anything_else_is_no_seeds(value):
    with pytest.raises(InputError, match="seeds"):
        as_seeds(value)


@pytest.mark.parametrize("value, sizes", [(None, None), (5, [5]), ([5], [5]), ([9, 5], [9, 5])])
def test_one_size_or_several(value, sizes):
    assert as_sizes(value, "n_identities") == sizes == as_sizes(OmegaConf.create({"n": value}).n, "n_identities")


@pytest.mark.parametrize("value", [0, [], [5, 5], [5, -1], 2.0, "5", True, [None], "auto"])
def test_anything_else_is_no_size(value):
    with pytest.raises(InputError, match="n_identities"):
        as_sizes(value, "n_identities")


def test_auto_is_the_rule_of_the_paper():
    # Table 1 of the paper: N = 5,000 to 50,000 in clusters of 2,000 to 2,500 identities.
    assert subnets_for([5000, 10000, 20000, 50000], "auto") == [2, 5, 10, 25]
    assert subnets_for([1, 2, 100], "auto") == [1, 2, 2]


@pytest.mark.parametrize(
    "sizes, given, found", [([9, 8], 3, [3, 3]), ([9, 8], [2, 4], [2, 4]), ([9, 8], [8, 8], [8, 8]), ([5], 5, [5])]
)
def test_clusters_as_given(sizes, given, found):
    assert subnets_for(sizes, given) == found


@pytest.mark.parametrize(
    "sizes, given", [([9], 10), ([9, 8], [2, 9]), ([9], [2, 3]), ([9], 0), ([9], None), ([9], "two")]
)
def test_clusters_that_do_not_fit_are_refused(sizes, given):
    with pytest.raises(InputError, match="n_subnets"):
        subnets_for(sizes, given)


@pytest.mark.parametrize(
    "split", [dict(held_out=1), dict(held_out=-0.1), dict(max_test_images=0), dict(max_test_probes=0)], ids=str
)
def test_splits_out_of_range_are_refused(split):
    with pytest.raises(InputError, match=next(iter(split))):
        check_split(OmegaConf.create({"held_out": 0.0, "max_test_images": 5, "max_test_probes": None} | split))


def test_somebody_must_be_tested(memory_set):
    split = config().split
    assert check_testable(memory_set(), split, [3, 12], 0) is None
    with pytest.raises(InputError, match="no test image"):
        check_testable(memory_set(samples=(1, 1)), split, [12], 0)
    with pytest.raises(InputError, match="n_identities = 13"):
        check_testable(memory_set(), split, [5, 13], 0)


def test_an_embedding_set_is_opened_where_it_lies_and_named_after_its_folder(set_folder):
    cfg = config(data={"_target_": "datamodules.embedding_set.EmbeddingSet.open", "path": str(set_folder)})
    opened = open_data(cfg, [5])
    assert isinstance(opened, EmbeddingSet) and dataset_name(opened) == "toy"


def synthetic(tmp_path, **more):
    node = {
        "_target_": "datamodules.synthetic.SyntheticIdentities",
        "n_identities": 10,
        "dim": 4,
        "intrinsic_dim": 4,
        **more,
    }
    return config(data=node, runs_dir=str(tmp_path))


def test_generated_identities_are_written_once_and_large_enough(tmp_path):
    one = open_data(synthetic(tmp_path), [12, 20])
    assert one.n_identities == 20 and one.path.is_relative_to(tmp_path / "data")
    assert dataset_name(one) == "synthetic(dim=4,intrinsic_dim=4)"
    written = (one.path / "embeddings.npy").stat().st_mtime_ns
    assert open_data(synthetic(tmp_path), [20, 12]).path == one.path
    assert (one.path / "embeddings.npy").stat().st_mtime_ns == written
    assert open_data(synthetic(tmp_path), None).n_identities == 10
    assert open_data(synthetic(tmp_path, seed=1), [20]).path != one.path


def test_generated_identities_suffice_beside_those_held_out(tmp_path):
    cfg = synthetic(tmp_path)
    for held_out in (0.1, 0.2, 0.25, 1 / 3, 0.5, 0.9):
        for n in (1, 7, 20):
            cfg.split.held_out = held_out
            assert check_testable(open_data(cfg, [n]), cfg.split, [n], 0) is None


def test_what_a_killed_process_left_of_a_generated_set_goes_and_what_is_being_written_stays(tmp_path):
    for name, age in (("killed", 4000), ("writing", 10), ("both", 4000)):
        folder = tmp_path / f".synthetic-9-{name}.tmp"
        folder.mkdir()
        (folder / "embeddings.npy").write_bytes(b"")
        for path in (folder / "embeddings.npy", folder):
            os.utime(path, (time.time() - age,) * 2)
    os.utime(tmp_path / ".synthetic-9-both.tmp" / "embeddings.npy")  # an old folder, whose file is written right now
    (tmp_path / "synthetic-9-done").mkdir()
    remove_stale(tmp_path)
    left = {".synthetic-9-writing.tmp", ".synthetic-9-both.tmp", "synthetic-9-done"}
    assert {path.name for path in tmp_path.iterdir()} == left
    remove_stale(tmp_path / "not there")
