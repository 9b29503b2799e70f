# SPDX-License-Identifier: MIT
"""Arrays of other programs become an EmbeddingSet, whole or not at all; damage costs one line."""

import csv
import io
import json
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.sources.arrays import Arrays

LABELS = np.array([7, 12, 7, 3, 12, 7])
ROWS = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
NAMES = np.array(["Bo", "Åsa, 2", "Bo", "anna", "Åsa, 2", "Bo"])


def write_csv(path, lines):
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(lines)
    return path


def assert_right(made, labels=LABELS, rows=ROWS, width=2):
    """Rows beside their labels, in the order of the numbers or names, stably."""
    names = [f"{one:0{width}d}" if isinstance(one, np.integer) else str(one) for one in labels]
    order = sorted(range(len(names)), key=lambda place: (names[place], place))
    assert [made.identities[label] for label in made.labels] == [names[place] for place in order]
    np.testing.assert_allclose(made.embeddings, rows[order], rtol=1e-6)
    assert made.files == tuple(str(place) for place in order)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int16", "uint8"])
def test_numbers_of_any_kind(tmp_path, dtype):
    rows = (ROWS * 10 + 50).astype(dtype)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", LABELS)
    made = Arrays(tmp_path / "x.npy", str(tmp_path / "y.npy")).write(tmp_path / "set")
    assert made.embeddings.dtype == ("float16" if dtype == "float16" else "float32")
    assert_right(made, rows=rows.astype(np.float32))
    assert made.identities == ("03", "07", "12") and made.meta["source"] == "arrays x.npy"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "x.npy", "y.npy"]


@pytest.mark.parametrize("kind", ["npy", "bytes", "txt", "csv", "csv with a head"])
def test_names_in_a_file_beside(tmp_path, kind):
    np.save(tmp_path / "x.npy", ROWS)
    path = tmp_path / f"y.{'npy' if kind == 'bytes' else kind[:3]}"
    if kind == "npy":
        np.save(path, NAMES)
    elif kind == "bytes":
        np.save(path, np.char.encode(NAMES, "utf-8"))
    elif kind == "txt":
        path.write_text("\n".join(NAMES), encoding="utf-8")
    else:
        write_csv(path, [["label"]] * ("head" in kind) + [[name] for name in NAMES])
    assert_right(Arrays(tmp_path / "x.npy", str(path)).write(tmp_path / "set"), NAMES)


@pytest.mark.parametrize("names", [("embeddings", "labels"), ("vectors", "people"), ("embedding", "y")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, names, save):
    save(tmp_path / "x.npz", **dict(zip(names, (ROWS, NAMES), strict=True)), other=np.zeros(9))
    source = Arrays(tmp_path / "x.npz", names[1], names[0])
    assert_right(source.write(tmp_path / "set"), NAMES)


def test_a_folder_with_one_file_per_person(tmp_path):
    (tmp_path / "people").mkdir()
    np.save(tmp_path / "people/anna.npy", ROWS[:3])
    np.save(tmp_path / "people/Bo.npy", ROWS[3])  # a single one
    (tmp_path / "people/readme.txt").write_text("not read")
    made = Arrays(tmp_path / "people").write(tmp_path / "set")
    assert made.identities == ("Bo", "anna") and made.sample_counts().tolist() == [1, 3]
    np.testing.assert_array_equal(made.embeddings, ROWS[[3, 0, 1, 2]])


def test_csv_with_a_column_per_dimension(tmp_path):
    head = ["file", "e_0", "e_1", "e_2", "e_3", "who"]
    lines = [["a.jpg", *row, f"00{label}"] for row, label in zip(ROWS, LABELS, strict=True)]
    write_csv(tmp_path / "x.csv", [head, *lines])
    made = Arrays(tmp_path / "x.csv", "who", "e_*").write(tmp_path / "set")
    assert_right(made, np.array([f"00{label}" for label in LABELS]))  # text keeps its zeros
    np.savetxt(tmp_path / "bare.csv", ROWS, delimiter=",")
    np.save(tmp_path / "y.npy", LABELS)
    assert_right(Arrays(tmp_path / "bare.csv", str(tmp_path / "y.npy")).write(tmp_path / "bare"))


@pytest.mark.parametrize("text", [lambda row: json.dumps(row.tolist()), str, lambda row: " ".join(map(str, row))])
def test_csv_with_a_list_column(tmp_path, text):
    lines = [[name, text(row.astype(float))] for name, row in zip(NAMES, ROWS, strict=True)]
    write_csv(tmp_path / "x.csv", [["label", "embedding"], *lines])
    made = Arrays(tmp_path / "x.csv").write(tmp_path / "set")
    np.testing.assert_allclose(made.embeddings, ROWS[np.argsort(NAMES, kind="stable")], rtol=1e-4)


def test_the_options_of_a_source_choose(tmp_path):
    np.savez(tmp_path / "x.npz", embeddings=ROWS, labels=LABELS)
    made = Arrays(tmp_path / "x.npz", min_images=2, images_per_identity=2).write(tmp_path / "set")
    assert made.identities == ("07", "12") and made.sample_counts().tolist() == [2, 2]
    for row, place in zip(made.embeddings, map(int, made.files), strict=True):
        np.testing.assert_array_equal(row, ROWS[place])
    with pytest.raises(InputError, match="a source of pictures"):
        Arrays(tmp_path / "x.npz").listing()


def npy(array, cut=None, **header):
    """The bytes of an .npy file, with a header that says something else, or cut off."""
    stream = io.BytesIO()
    said = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **header}
    np.lib.format.write_array_header_1_0(stream, said)
    return (stream.getvalue() + array.tobytes())[:cut]


def npz(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


SPOILT = ROWS.copy()
SPOILT[4, 2] = np.nan
GOOD_LABELS = npy(LABELS)
BAD = {
    "empty": ("x.npy", b"", "unreadable"),
    "no array": ("x.npy", b"hello", "unreadable"),
    "no rows": ("x.npy", npy(ROWS[:0]), "0 embeddings"),
    "no columns": ("x.npy", npy(ROWS[:, :0]), "0 embeddings"),
    "cut off": ("x.npy", npy(ROWS, cut=-1), "ends in row 5 of 6"),
    "cut in the header": ("x.npy", npy(ROWS, cut=40), "unreadable"),
    "huge header": ("x.npy", npy(ROWS, shape=(10**15, 4)), "ends in row 6 of"),
    "huge rows": ("x.npy", npy(ROWS, shape=(1, 10**15)), "rows of 4,000,000,000,000,000 bytes"),
    "huge nothing": ("x.npy", npy(ROWS, shape=(10**15, 0)), "0 embeddings"),
    "objects": ("x.npy", npy(ROWS, descr="|O"), "of object"),
    "complex": ("x.npy", npy(ROWS, descr="<c8"), "complex64"),
    "of text": ("x.npy", npy(NAMES), "<U6"),
    "by columns": ("x.npy", npy(ROWS, fortran_order=True), "stored by columns"),
    "three axes": ("x.npy", npy(ROWS.reshape(6, 2, 2)), "(6, 2, 2)"),
    "nan": ("x.npy", npy(SPOILT), "row 4 with numbers that are not finite"),
    "too large for float32": ("x.npy", npy(ROWS.astype(float) * 1e300), "row 0 with numbers that are not finite"),
    "zeros": ("x.npy", npy(0 * ROWS), "row 0 with zeros only"),
    "fewer rows than labels": ("x.npy", npy(ROWS[:5]), "6 labels for 5 embeddings"),
    "all alike": ("x.npy", npy(np.ones((6, 4))), "all 6 embeddings are equal"),
    "another suffix": ("x.dat", b"", "of another kind"),
    "no archive": ("x.npz", npy(ROWS), "unreadable"),
    "archive of nothing": ("x.npz", npz(), "with nothing"),
    "archive of several": ("x.npz", npz(a=npy(ROWS), b=npy(ROWS)), "with a, b"),
    "archive cut off": ("x.npz", npz(a=npy(ROWS))[:-30], "unreadable"),
    "archive with a huge header": ("x.npz", npz(a=npy(ROWS, shape=(10**15, 4))), "ends in row 6 of"),
    "empty table": ("x.csv", b"", "unreadable"),
    "table of a head": ("x.csv", b"a,b\n", "0 embeddings"),
    "table with text": ("x.csv", b"a,b\n1,2\n3,x\n", "column 'b' with text"),
    "table with an index": ("x.csv", b",a\n0,2\n1,3\n", "a column without name"),
    "table with a short row": ("x.csv", b"a,b\n1,2\n3\n", "row 1 with numbers that are not finite"),
    "table with a long row": ("x.csv", b"a,b\n1,2\n3,4,5\n", "unreadable"),
    "table with longer rows": ("x.csv", b"a,b\n1,2,3\n3,4,5\n", "longer than the first"),
    "lists of two lengths": ("x.csv", b'embedding\n"[1, 2]"\n"[1]"\n', "lists of 1 to 2 numbers"),
    "lists of words": ("x.csv", b'embedding\n"[1, b]"\n', "unreadable"),
    "table of bytes": ("x.csv", bytes(range(256)), "unreadable"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_damage_costs_one_line_and_leaves_nothing(tmp_path, call, case):
    name, content, word = BAD[case]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "y.npy").write_bytes(GOOD_LABELS)
    ended = call(
        "prepare", "source=arrays", f"source.embeddings={tmp_path / name}", f"source.labels={tmp_path / 'y.npy'}",
        f"out={tmp_path / 'set'}",
    )  # fmt: skip
    ended.assert_refused(word)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "y.npy"])


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("y.npy", npy(LABELS + 0.5), "not all whole"),
        ("y.npy", npy(np.where(LABELS > 9, np.nan, LABELS)), "not all whole"),
        ("y.npy", npy(LABELS.reshape(6, 1)), "(6, 1)"),
        ("y.npy", npy(LABELS, cut=-3), "ends in row 5 of 6"),
        ("y.txt", b"a\nb\n", "2 labels for 6"),
        ("y.txt", b"a\n\nc\nd\ne\nf\n", "blank name"),
        ("y.txt", b"a\nb\nc\nd\ne\n\xff\n", "unreadable"),
        ("y.txt", b"unknown\nb\nc\nd\ne\nf\n", "called 'unknown'"),
        ("y.csv", b"a,1\nb,2\n", "with the line 'a,1'"),
        ("missing.npy", None, "unreadable"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, name, content, word):
    np.save(tmp_path / "x.npy", ROWS)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=word.replace("(", r"\(").replace(")", r"\)")):
        Arrays(tmp_path / "x.npy", str(tmp_path / name)).write(tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_names_that_the_file_does_not_have(tmp_path):
    np.savez(tmp_path / "x.npz", features=ROWS, people=LABELS)
    for wanted, word in (({"labels": "peple"}, "did you mean people?"), ({"column": "x"}, "one of features, people")):
        with pytest.raises(InputError) as refused:
            Arrays(tmp_path / "x.npz", **wanted).write(tmp_path / "set")
        assert word in str(refused.value)


def test_rows_of_people_that_do_not_fit_together(tmp_path):
    (tmp_path / "people").mkdir()
    with pytest.raises(InputError, match="of another kind"):
        Arrays(tmp_path / "people").write(tmp_path / "set")
    np.save(tmp_path / "people/anna.npy", ROWS)
    np.save(tmp_path / "people/bo.npy", ROWS[:, :3])
    with pytest.raises(InputError, match="from row 6 on: 3 numbers of float32; expected 4 of float32"):
        Arrays(tmp_path / "people").write(tmp_path / "set")


@given(content=st.binary(max_size=300), suffix=st.sampled_from(["npy", "npz", "csv"]), whole=st.booleans())
def test_any_bytes_are_refused(tmp_path_factory, content, suffix, whole):
    folder = tmp_path_factory.mktemp("any")
    head = {"npy": npy(ROWS), "npz": npz(embeddings=npy(ROWS), labels=GOOD_LABELS), "csv": b"label,a\n1,2\n"}[suffix]
    (folder / f"x.{suffix}").write_bytes((head[: len(head) // 2] if whole else b"") + content)
    try:
        EmbeddingSet.open(Arrays(folder / f"x.{suffix}").write(folder / "set").path)
    except InputError as error:
        assert "\n" not in str(error) and not (folder / "set").exists()


def test_the_command_makes_a_set(tmp_path, call):
    np.savez(tmp_path / "x.npz", embeddings=ROWS, labels=NAMES)
    words = ("source=arrays", f"source.embeddings={tmp_path / 'x.npz'}", f"out={tmp_path / 'set'}")
    ended = call("prepare", *words)
    assert ended.code == 0, ended.err
    assert "6 embeddings of 3 identities, 4-d float32, 1 to 3 each, by arrays x.npz" in ended.out
    assert_right(EmbeddingSet.open(tmp_path / "set"), NAMES)
    call("prepare", *words).assert_refused("which exists")
    call("prepare", *words, "extractor=random_projection").assert_refused("extractor=")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_memory_does_not_grow_with_the_file(tmp_path, suffix, monkeypatch):
    """A file of 256 MiB is read with less than a quarter of it."""
    for module in ("extraction.assembling", "embedding_set"):
        monkeypatch.setattr(f"datamodules.{module}.CHUNK_ROWS", 4096)
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": (1 << 15, 1024)})
    block = np.random.default_rng(0).standard_normal((1 << 10, 1024)).tobytes()
    np.save(tmp_path / "y.npy", np.arange(1 << 15) // 4)
    path = tmp_path / f"x.{suffix}"
    archive = zipfile.ZipFile(path, "w") if suffix == "npz" else None
    with archive.open("x.npy", "w") if archive else open(path, "wb") as stream:
        stream.write(content.getvalue())
        for _ in range(32):
            stream.write(block)
    if archive:
        archive.close()
    assert os.path.getsize(path) > 1 << 28
    tracemalloc.start()
    made = Arrays(path, str(tmp_path / "y.npy")).write(tmp_path / "set")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(made) == 1 << 15 and peak < 1 << 26, f"{peak:,} bytes"
