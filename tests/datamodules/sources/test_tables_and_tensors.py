# SPDX-License-Identifier: MIT
"""Parquet, Arrow, safetensors, PyTorch and HDF5 files become an EmbeddingSet; damage costs one line."""

import json
import struct
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.sources.arrays import Arrays

LABELS = np.array([7, 12, 7, 3, 12, 7])
ROWS = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
NAMES = ["Bo", "Åsa", "Bo", "anna", "Åsa", "Bo"]
ORDER = {"numbers": [3, 0, 2, 5, 1, 4], "names": [0, 2, 5, 3, 1, 4]}


def arrow_folder(folder, batches, features=None, schema=None):
    """What `datasets.Dataset.save_to_disk` writes: one file per list of batches."""
    import pyarrow as pa

    folder.mkdir()
    names = [f"data-{place:05d}-of-{len(batches):05d}.arrow" for place in range(len(batches))]
    for name, some in zip(names, batches, strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, some[0].schema) as writer:
            for batch in some:
                writer.write_batch(batch)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))
    return folder


def write(path, kind, labels):
    """A file of ROWS and labels, of the kind that is named."""
    tensors = {"embeddings": torch.from_numpy(ROWS)}
    if kind == "safetensors":
        save_file({**tensors, "labels": torch.from_numpy(labels)}, path)
    elif kind == "bfloat16":
        save_file({"x": tensors["embeddings"].bfloat16(), "labels": torch.from_numpy(labels)}, path)
    elif kind == "pt":
        torch.save({**tensors, "labels": labels if isinstance(labels, list) else torch.from_numpy(labels)}, path)
    elif kind == "h5":
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset("group/embeddings", data=ROWS.astype(float), chunks=(2, 4))
            file["labels"] = labels
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"embedding": ROWS.tolist(), "label": labels}), path, row_group_size=4)
    else:
        raise AssertionError(kind)
    return path


KINDS = {"safetensors": "safetensors", "bfloat16": "safetensors", "pt": "pt", "h5": "h5", "parquet": "parquet"}
NEEDED = {"h5": "h5py", "parquet": "pyarrow", "arrow": "pyarrow"}


@pytest.mark.parametrize("labels", ["numbers", "names"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_stand_beside_their_labels(tmp_path, kind, labels):
    pytest.importorskip(NEEDED.get(kind, "torch"))
    if labels == "names" and KINDS[kind] == "safetensors":
        pytest.skip("it has no text")
    path = write(tmp_path / f"x.{KINDS[kind]}", kind, LABELS if labels == "numbers" else NAMES)
    made = Arrays(path, column="group/embeddings" if kind == "h5" else None).write(tmp_path / "set")
    np.testing.assert_allclose(made.embeddings, ROWS[ORDER[labels]], rtol=1e-2 if kind == "bfloat16" else 1e-6)
    assert made.identities == (("03", "07", "12") if labels == "numbers" else ("Bo", "anna", "Åsa"))
    assert made.files == tuple(map(str, ORDER[labels]))


@pytest.mark.parametrize("kind", ["fixed", "large", "columns", "halves", "dictionary"])
def test_the_forms_of_a_table(tmp_path, kind):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = ROWS.astype(np.float16) if kind == "halves" else ROWS
    labels = pa.array(NAMES).dictionary_encode() if kind == "dictionary" else pa.array(NAMES)
    value = pa.float16() if kind == "halves" else pa.float32()
    columns = {"embedding": pa.array(list(rows), pa.large_list(value) if kind == "large" else pa.list_(value, 4))}
    if kind == "columns":
        columns = {"id": pa.array(range(6)), **{f"e_{place}": pa.array(rows[:, place]) for place in range(4)}}
    pq.write_table(pa.table({**columns, "label": labels}), tmp_path / "x.parquet")
    made = Arrays(tmp_path / "x.parquet", column="e_*" if kind == "columns" else None).write(tmp_path / "set")
    np.testing.assert_array_equal(made.embeddings, rows[ORDER["names"]])
    assert made.embeddings.dtype == rows.dtype


def test_an_arrow_data_set_of_class_labels(tmp_path):
    pa = pytest.importorskip("pyarrow")
    labels = np.array([1, 2, 1, 0, 2, 1])
    batches = [
        pa.record_batch({"embedding": ROWS[part].tolist(), "label": labels[part]})
        for part in (slice(0, 2), slice(2, 3), slice(3, 6))
    ]
    features = {"label": {"_type": "ClassLabel", "names": ["anna", "Bo", "Åsa"]}, "embedding": {"_type": "List"}}
    root = arrow_folder(tmp_path / "data", [batches[:2], batches[2:]], features)
    made = Arrays(root).write(tmp_path / "set")
    np.testing.assert_allclose(made.embeddings, ROWS[ORDER["names"]], rtol=1e-6)
    assert made.identities == ("Bo", "anna", "Åsa")
    (tmp_path / "both").mkdir()
    (tmp_path / "both/dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(InputError, match="train or the like"):
        Arrays(tmp_path / "both").write(tmp_path / "other")
    (root / "state.json").write_text('{"_data_files": [{"filename": "../data-00000-of-00002.arrow"}]}')
    with pytest.raises(InputError, match="without files in the folder"):
        Arrays(root).write(tmp_path / "other")


SPOILT = ROWS.copy()
SPOILT[4, 2] = np.nan


def damaged(folder, kind):
    """A file with the fault that is named, and a word of the message."""
    form, _, fault = kind.partition(": ")
    path = folder / f"x.{form}"
    if fault == "empty":
        path.write_bytes(b"")
        return path, "unreadable"
    if fault == "of another kind":
        np.save(folder / "x.npy", ROWS)
        (folder / "x.npy").rename(path)
        return path, "unreadable"
    if fault in ("cut off", "other bytes"):
        content = write(path, form, LABELS).read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] if fault == "cut off" else b"\xff" * middle + content[middle:])
        return path, "unreadable"
    if fault in ("huge header", "huge length"):
        header = {"embeddings": {"dtype": "F32", "shape": [10**12, 4], "data_offsets": [0, 16 * 10**12]}}
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", 1 << 60 if fault == "huge length" else len(text)) + text + bytes(64))
        return path, "unreadable"
    rows = {"nan": SPOILT, "one axis": ROWS[:, 0], "no rows": ROWS[:0]}.get(fault, ROWS)
    word = {"nan": "row 4 with numbers that are not finite", "one axis": "of shape (6,)", "no rows": "0 embeddings"}
    if form == "safetensors":
        save_file({"embeddings": torch.from_numpy(rows).contiguous()}, path)
    elif form == "pt":
        content = {"embeddings": torch.from_numpy(rows).contiguous()}
        other = {"a repeated row": {"embeddings": torch.ones(1, 4).expand(10**9, 4)}, "a list": [1, 2], "code": print}
        torch.save(other.get(fault, content), path)
        word |= {"a repeated row": "larger than its content", "a list": "with a list", "code": "unreadable"}
    elif form == "h5":
        import h5py

        with h5py.File(path, "w") as file:
            if fault == "huge nothing":
                file.create_dataset("embeddings", shape=(10**12, 4), chunks=(10, 4), dtype="f4")
            else:
                file["embeddings"] = rows
        word |= {"huge nothing": "row 0 with zeros only"}
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        lists = {"mixed lengths": [[1.0, 2.0], [1.0]], "nothing in a row": [[1.0], None], "text": ["a", "b"]}
        column = lists.get(fault, rows.tolist())
        pq.write_table(
            pa.table({"embedding": pa.array(column, pa.list_(pa.float32()) if fault == "no rows" else None)}), path
        )
        word |= {"mixed lengths": "lists of lengths 1, 2", "nothing in a row": "lists of lengths", "text": "of string"}
        word |= {"one axis": "(6, 1)"}
    return path, word[fault]


FAULTS = [
    f"{form}: {fault}"
    for form in ("safetensors", "pt", "h5", "parquet")
    for fault in ("empty", "of another kind", "cut off", "other bytes", "nan", "no rows")
] + [
    "safetensors: huge header", "safetensors: huge length", "safetensors: one axis", "pt: one axis", "h5: one axis",
    "pt: a repeated row", "pt: a list", "pt: code", "h5: huge nothing", "parquet: mixed lengths",
    "parquet: nothing in a row", "parquet: text",
]  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_damage_costs_one_line_and_leaves_nothing(tmp_path, call, kind):
    form = kind.partition(":")[0]
    pytest.importorskip(NEEDED.get(form, "torch"))
    path, word = damaged(tmp_path, kind)
    np.save(tmp_path / "y.npy", LABELS)
    ended = call(
        "prepare", "source=arrays", f"source.embeddings={path}", f"source.labels={tmp_path / 'y.npy'}",
        f"out={tmp_path / 'set'}",
    )  # fmt: skip
    ended.assert_refused(word)
    assert sorted(one.name for one in tmp_path.iterdir()) == [path.name, "y.npy"]


@pytest.mark.parametrize("form", ["safetensors", "pt", "h5", "parquet"])
def test_a_file_with_a_few_other_bytes_is_read_or_refused(tmp_path, form):
    pytest.importorskip(NEEDED.get(form, "torch"))
    content = write(tmp_path / f"good.{form}", form, LABELS).read_bytes()
    if form == "h5":
        np.save(tmp_path / "y.npy", LABELS)

    @settings(max_examples=40)
    @given(place=st.integers(0, len(content) - 1), other=st.binary(min_size=1, max_size=8))
    def change(place, other):
        (tmp_path / f"x.{form}").write_bytes(content[:place] + other + content[place + len(other) :])
        column = "group/embeddings" if form == "h5" else None
        out = tmp_path / f"set{len(list(tmp_path.iterdir()))}"
        try:
            Arrays(tmp_path / f"x.{form}", column=column).write(out)
        except InputError as error:
            assert "\n" not in str(error) and not out.exists()

    change()


@pytest.mark.parametrize(("form", "package"), [("h5", "h5py"), ("parquet", "pyarrow.parquet")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, form, package):
    (tmp_path / f"x.{form}").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"clusterface\[arrays\]"):
        Arrays(tmp_path / f"x.{form}").write(tmp_path / "set")


@pytest.mark.parametrize("files", [(), tuple(f"a/{place}.jpg" for place in range(6))])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_set_goes_out_as_a_table_and_comes_back(tmp_path, call, monkeypatch, dtype, files):
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("datamodules.sources.tables.BLOCK_ROWS", 4)
    labels = [0, 0, 1, 1, 1, 2]
    EmbeddingSet.write(tmp_path / "set", ROWS.astype(dtype), labels, ["Bo", "anna", "Åsa"], files)
    words = ("export", f"embeddings={tmp_path / 'set'}", f"out={tmp_path / 'new/x.parquet'}")
    ended = call(*words)
    assert ended.code == 0, ended.err
    table = pq.read_table(tmp_path / "new/x.parquet")
    assert table.column_names == ["label", "embedding", *(["file"] if files else [])]
    assert table["label"].to_pylist() == ["Bo", "Bo", "anna", "anna", "anna", "Åsa"]
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), dtype), ROWS.astype(dtype))
    assert not files or tuple(table["file"].to_pylist()) == files
    back = Arrays(tmp_path / "new/x.parquet").write(tmp_path / "back")
    np.testing.assert_array_equal(back.embeddings, ROWS.astype(dtype))
    assert back.identities == ("Bo", "anna", "Åsa") and back.embeddings.dtype == dtype
    call(*words).assert_refused("which exists")
    call("export", f"embeddings={tmp_path}", f"out={tmp_path / 'y.parquet'}").assert_refused()
    call(*words[:2], f"out={tmp_path / 'z.parquet'}", "format=faiss").assert_refused("for embeddings=")
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["x.parquet"]
