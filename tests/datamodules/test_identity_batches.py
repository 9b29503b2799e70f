# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.alignment import Resize
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.identity_batches import EmbeddingRows, IdentityBatches, IdentityDataModule, ImageRows
from datamodules.sources.image_folder import ImageFolder

LABELS = np.repeat(np.arange(7), [5, 1, 2, 9, 3, 1, 4])


def test_every_identity_with_two_images_is_visited_once_with_distinct_images():
    batches = IdentityBatches(LABELS, identities_per_batch=2, images_per_identity=4, seed=3)
    seen = [LABELS[batch] for batch in batches]
    assert len(seen) == len(batches) == 2  # five identities: 3 + 2, as a batch of one has no negatives
    assert sorted(np.unique(np.concatenate([np.unique(labels) for labels in seen]))) == [0, 2, 3, 4, 6]
    for batch, labels in zip(batches, seen, strict=True):
        assert len(set(batch)) == len(batch)
        values, counts = np.unique(labels, return_counts=True)
        assert len(values) >= 2
        assert counts.tolist() == [min(4, int((LABELS == value).sum())) for value in values]


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        batches = IdentityBatches(LABELS, 2, 4, seed)
        batches.set_epoch(epoch)
        return list(batches)

    batches = IdentityBatches(LABELS, 2, 4, 1)
    list(batches)
    batches.sampler.set_epoch(5)
    assert list(batches) == order(1, 5) != order(1, 6)
    assert order(2, 5) != order(1, 5)


@pytest.mark.parametrize(
    ("sizes", "message"), [((1, 4), "identities_per_batch = 1"), ((4, 1), "images_per_identity = 1")]
)
def test_batches_without_triplets_are_refused(sizes, message):
    with pytest.raises(InputError, match=message):
        IdentityBatches(LABELS, *sizes)


def test_data_without_triplets_are_refused():
    with pytest.raises(InputError, match="1 identities with two or more"):
        IdentityBatches(np.array([0, 0, 1, 2]))


def test_rows_of_a_set_come_as_batches_of_their_own_rows():
    rows = np.arange(24, dtype=np.float16).reshape(12, 2)
    labels = np.repeat(np.arange(4), 3).astype(np.int32)
    chosen = np.array([0, 1, 2, 6, 7, 8, 9])
    dataset = EmbeddingRows(EmbeddingSet(rows, labels, tuple("abcd")), chosen)
    module = IdentityDataModule(dataset, dataset, IdentityBatches(dataset.labels_N, 3, 2, 0))
    ((samples, got),) = module.train_dataloader()
    assert samples.dtype == torch.float32 and got.dtype == torch.int64 and len(got) == 4  # d has one row only
    place = {tuple(row): label for row, label in zip(rows.tolist(), labels.tolist(), strict=True)}
    assert [place[tuple(row)] for row in samples.tolist()] == got.tolist()
    ((samples, got),) = module.predict_dataloader()
    np.testing.assert_array_equal(samples, rows[chosen])
    np.testing.assert_array_equal(got, labels[chosen])


def images(tmp_path, flip):
    for place, name in enumerate(["a/1.png", "a/2.png", "b/1.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shade = np.zeros((4, 4, 3), np.uint8)
        shade[:, 0] = 50 * (place + 1)
        Image.fromarray(shade).save(tmp_path / name)
    source = ImageFolder(tmp_path, top_up_to=0)
    return ImageRows(source, source.listing(), np.array([0, 2]), Resize(4), flip)


def test_images_are_decoded_cropped_and_mirrored_now_and_then(tmp_path):
    still = images(tmp_path, flip=False)
    crop, label = still[1]
    assert label == 1 and crop.shape == (4, 4, 3) and crop[0, :, 0].tolist() == [150, 0, 0, 0]
    mirrored = images(tmp_path, flip=True)
    torch.manual_seed(0)
    seen = {tuple(mirrored[0][0][0, :, 0].tolist()) for _ in range(30)}
    assert seen == {(50, 0, 0, 0), (0, 0, 0, 50)}


def test_an_unusable_image_is_left_out_of_its_batch(tmp_path):
    rows = images(tmp_path, flip=False)
    (tmp_path / "a/1.png").write_bytes(b"broken")
    assert rows[0] is None
    samples, labels = rows.collate([rows[0], rows[1]])
    assert len(samples) == 1 and labels.tolist() == [1]
    with pytest.raises(InputError, match="none usable"):
        rows.collate([None, None])
