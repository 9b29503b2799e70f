# SPDX-License-Identifier: MIT
"""Pictures and embeddings in Arrow data sets and in WebDataset shards; damage costs one line."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.images import RejectedImage
from datamodules.sources.arrays import Arrays
from datamodules.sources.tables import ArrowImages
from datamodules.sources.webdataset import WebDataset
from tests.datamodules.sources.test_tables_and_tensors import arrow_folder

PEOPLE = ["Bo", "anna", "Åsa"]
WHO = [1, 0, 2, 1, 0]


def png(seed):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


PICTURES = [png(place) for place in range(5)]
ROWS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def npy(row):
    stream = io.BytesIO()
    np.save(stream, row)
    return stream.getvalue()


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def shards(folder, kind="cls", content=PICTURES, extension="png"):
    """Five samples in two shards, with keys that both shards have."""
    folder.mkdir()
    label = {"cls": lambda who: str(who), "txt": lambda who: PEOPLE[who], "json": lambda who: f'{{"label": "{who}"}}'}
    for shard, places in (("a.tar", (0, 1, 2)), ("b.tar", (3, 4))):
        members = []
        for key, place in enumerate(places):
            members += [(f"./dir.1/{key:03d}.{extension}", content[place])]
            members += [(f"./dir.1/{key:03d}.{kind}", label[kind](WHO[place]).encode())]
        tar(folder / shard, members)
    return folder


def images(folder, rows=None, kind="class"):
    """The same samples as an Arrow data set in two files."""
    import pyarrow as pa

    features = {"label": {"_type": "ClassLabel", "names": PEOPLE}, "image": {"_type": "Image"}}
    labels = WHO if kind == "class" else [PEOPLE[who] for who in WHO]
    cells = [{"bytes": one, "path": "elsewhere.png"} for one in PICTURES] if rows is None else rows
    batches = [
        pa.record_batch({"image": pa.array(cells[part]), "label": pa.array(labels[part])})
        for part in (slice(0, 2), slice(2, 3), slice(3, 5))
    ]
    return arrow_folder(folder, [batches[:2], batches[2:]], features if kind == "class" else {})


def assert_right(source, names):
    listing = source.listing()
    assert listing.identities == tuple(sorted(names)) and len(set(listing.names.tolist())) == 5
    source = pickle.loads(pickle.dumps(source))  # as it reaches a worker process
    found = [(listing.identities[label], source.read(name)) for name, label in zip(*vars_of(listing), strict=True)]
    assert sorted(found) == sorted((names[who], picture) for who, picture in zip(WHO, PICTURES, strict=True))


def vars_of(listing):
    return listing.names.tolist(), listing.labels


@pytest.mark.parametrize("kind", ["cls", "txt", "json"])
def test_pictures_in_shards(tmp_path, kind):
    source = WebDataset(shards(tmp_path / "shards", kind))
    assert_right(source, PEOPLE if kind == "txt" else ["0", "1", "2"])
    assert all(name.endswith(".png") and "/./dir.1/00" in name for name in source.listing().names)
    assert len(WebDataset(tmp_path / "shards/b.tar").listing()) == 2
    for name in ("c.tar/0-10/x.png", "../shards/a.tar/0-10/x", "/etc/passwd", "a.tar", "a.tar/-5-10/x", "a.tar/a-b/x"):
        with pytest.raises(RejectedImage):
            source.read(name)


@pytest.mark.parametrize("kind", ["class", "names"])
def test_pictures_in_an_arrow_data_set(tmp_path, kind):
    pytest.importorskip("pyarrow")
    source = ArrowImages(images(tmp_path / "data", kind=kind))
    assert_right(source, PEOPLE)
    for name in ("data-00000-of-00002.arrow/99", "../data/x/1", "state.json/0", "data-00000-of-00002.arrow/x"):
        with pytest.raises(RejectedImage):
            source.read(name)
    elsewhere = ArrowImages(images(tmp_path / "paths", [{"bytes": None, "path": "/etc/passwd"}] * 5))
    with pytest.raises(RejectedImage, match="no bytes"):
        elsewhere.read(elsewhere.listing().names[0])


@pytest.mark.parametrize("kind", ["arrow", "webdataset"])
def test_pictures_are_embedded_like_those_of_a_folder(tmp_path, call, kind):
    if kind == "arrow":
        pytest.importorskip("pyarrow")
    for place, (who, picture) in enumerate(zip(WHO, PICTURES, strict=True)):
        (tmp_path / "folder" / PEOPLE[who]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / PEOPLE[who] / f"{place}.png").write_bytes(picture)
    packed = images(tmp_path / "data") if kind == "arrow" else shards(tmp_path / "data", "txt")
    for source, root in (("image_folder", tmp_path / "folder"), (kind, packed)):
        ended = call(
            "prepare", f"source={source}", f"source.root={root}", "source.top_up_to=0", f"out={tmp_path / source}",
            "extractor=random_projection", "extractor.image_size=8", "alignment=prealigned", "trainer.accelerator=cpu",
        )  # fmt: skip
        assert ended.code == 0, ended.err
    expected, made = (EmbeddingSet.open(tmp_path / source) for source in ("image_folder", kind))
    assert made.identities == expected.identities
    np.testing.assert_array_equal(made.labels, expected.labels)
    np.testing.assert_allclose(made.embeddings, expected.embeddings, rtol=1e-3)


def test_embeddings_in_shards(tmp_path):
    root = shards(tmp_path / "shards", "txt", [npy(row) for row in ROWS], "npy")
    for at, count in ((root, 5), (root / "a.tar", 3)):
        made = Arrays(at).write(tmp_path / f"set{count}")
        order = sorted(range(count), key=lambda place: (PEOPLE[WHO[place]], place))
        np.testing.assert_array_equal(made.embeddings, ROWS[order])
        assert [made.identities[label] for label in made.labels] == [PEOPLE[WHO[place]] for place in order]


HUGE = npy(ROWS[0]).replace(b"(4,)", b"(9999999999,)")
GOOD = [("0.npy", npy(ROWS[0])), ("0.cls", b"1"), ("1.npy", npy(ROWS[1])), ("1.cls", b"2")]
BAD_SHARDS = {
    "no label": (GOOD[:1], "0 without cls or txt or json"),
    "a label that is no text": ([GOOD[0], ("0.cls", b"\xff")], "unreadable"),
    "a large label": ([GOOD[0], ("0.cls", bytes(2**21))], "a member of 2,097,152 bytes"),
    "json without label": ([GOOD[0], ("0.json", b"{}")], "unreadable"),
    "no embedding": ([("0.png", b"x"), ("0.cls", b"1")], "with nothing"),
    "a huge array": ([("0.npy", HUGE), ("0.cls", b"1")], "rows of 39,999,999,996 bytes"),
    "mixed lengths": ([*GOOD, ("2.npy", npy(ROWS[0, :3])), ("2.cls", b"1")], "3 numbers of float32; expected 4"),
    "nan": ([("0.npy", npy(ROWS[0] * np.nan)), ("0.cls", b"1")], "not finite"),
    "a pickle": ([("0.npy", npy(ROWS[0]).replace(b"'<f4'", b" '|O'")), ("0.cls", b"1")], "of object"),
    "nothing": ([], "0 embeddings"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SHARDS)
def test_damaged_samples_cost_one_line(tmp_path, call, case):
    members, word = BAD_SHARDS[case]
    path = tar(tmp_path / "x.tar", members)
    ended = call("prepare", "source=arrays", f"source.embeddings={path}", f"out={tmp_path / 'set'}")
    ended.assert_refused(word)
    assert [one.name for one in tmp_path.iterdir()] == ["x.tar"]


def test_links_lead_nowhere_and_other_archives_are_refused(tmp_path):
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        link = tarfile.TarInfo("0.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with tarfile.open(tmp_path / "small.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.npy"))
    with pytest.raises(InputError, match="0 embeddings"):
        Arrays(tmp_path / "links.tar").write(tmp_path / "set")
    with pytest.raises(InputError, match="unreadable"):
        Arrays(tmp_path / "small.tar").write(tmp_path / "set")
    with pytest.raises(InputError, match="without pictures"):
        WebDataset(tmp_path / "links.tar").listing()


def test_headers_that_ask_for_much_are_refused(tmp_path):
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 32
    (tmp_path / "x.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(InputError, match="a header of 4,294,967,296 bytes"):
        Arrays(tmp_path / "x.tar").write(tmp_path / "set")
    long = tarfile.TarInfo("0.npy")
    long.size = 1 << 40
    (tmp_path / "x.tar").write_bytes(long.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(InputError, match="beyond the end|unreadable"):
        Arrays(tmp_path / "x.tar").write(tmp_path / "set")


@pytest.mark.parametrize("kind", ["arrow", "tar"])
def test_other_bytes_are_read_or_refused(tmp_path, kind):
    if kind == "arrow":
        pytest.importorskip("pyarrow")
        path = images(tmp_path / "data") / "data-00000-of-00002.arrow"
        source = ArrowImages(tmp_path / "data", top_up_to=0)
    else:
        path = shards(tmp_path / "data") / "a.tar"
        source = WebDataset(tmp_path / "data", top_up_to=0)
    content = path.read_bytes()

    @settings(max_examples=40)
    @given(place=st.integers(0, len(content) - 1), other=st.binary(min_size=1, max_size=8))
    def change(place, other):
        path.write_bytes(content[:place] + other + content[place + len(other) :])
        try:
            for name in source.listing().names.tolist():
                try:
                    source.read(name)
                except RejectedImage:
                    pass
        except InputError as error:
            assert "\n" not in str(error)

    change()
    for cut in (0, 5, 300, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        try:
            assert len(source.listing()) <= 5
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
def test_a_data_set_without_one_of_its_files(tmp_path, name):
    pytest.importorskip("pyarrow")
    root = images(tmp_path / "data")
    (root / name).write_text("[]")
    with pytest.raises(InputError, match="a JSON list"):
        ArrowImages(root).listing()
    with pytest.raises(InputError, match="without 'picture'"):
        ArrowImages(images(tmp_path / "other"), image="picture").listing()
    (root / name).unlink()
    with pytest.raises(InputError, match="no file"):
        ArrowImages(root).listing()


def test_a_label_that_is_not_known_is_no_label(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setitem(globals(), "WHO", [1, 0, -1, 1, 0])
    with pytest.raises(InputError, match="class labels below 0"):
        ArrowImages(images(tmp_path / "data")).listing()


def test_metadata_of_any_form(tmp_path):
    pytest.importorskip("pyarrow")
    root = images(tmp_path / "data")
    for features in (3, {"label": 3}, {"label": {"_type": "ClassLabel", "names": ["only one"]}}):
        (root / "dataset_info.json").write_text(json.dumps({"features": features}))
        try:
            assert ArrowImages(root).listing().identities == ("0", "1", "2")
        except InputError as error:
            assert "\n" not in str(error)
