# SPDX-License-Identifier: MIT
"""Record files written here, byte by byte, whole and damaged."""

import io
import pickle
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.errors import InputError
from datamodules.images import RejectedImage, decode
from datamodules.sources import recordio
from datamodules.sources.recordio import RecordFile, RecordIO, read_index, unpack_image

MAGIC = b"\x0a\x23\xd7\xce"


def record(payload: bytes) -> bytes:
    """One record, split at every aligned magic number inside of the payload, as the format's own writer does."""
    places = [i for i in range(0, len(payload) - 3, 4) if payload[i : i + 4] == MAGIC]
    starts, ends = [0, *(place + 4 for place in places)], [*places, len(payload)]
    written = b""
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        first, last = number == 0, number == len(starts) - 1
        flag = 0 if first and last else 1 if first else 3 if last else 2
        part = payload[start:end]
        written += MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4)
    return written


def labelled(labels: list[float], content: bytes = b"", key: int = 0) -> bytes:
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], key, 0) + content
    return struct.pack("<IfQQ", len(labels), 0.0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + content


def picture(value: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 255 - value, 0)).save(stream, kind)
    return stream.getvalue()


def write(folder, payloads: dict[int, bytes], n_identities: int | None = None):
    folder.mkdir(parents=True, exist_ok=True)
    content, index = b"", ""
    for key, payload in payloads.items():
        index += f"{key}\t{len(content)}\n"
        content += record(payload)
    (folder / "train.rec").write_bytes(content)
    (folder / "train.idx").write_text(index)
    if n_identities is not None:
        (folder / "property").write_text(f"{n_identities},112,112")
    return folder


def release(counts: list[int], numbers: list[int] | None = None, two_labels: bool = False) -> dict[int, bytes]:
    """Payloads as in the releases: a header, images by identity, one record per identity."""
    numbers = numbers or list(range(len(counts)))
    n_images = sum(counts)
    payloads = {0: labelled([n_images + 1, n_images + 1 + len(counts)])}
    ranges, key = [], 1
    for number, count in zip(numbers, counts, strict=True):
        ranges.append((key, key + count))
        for _ in range(count):
            labels = [float(number), 1.0] if two_labels else [float(number)]
            payloads[key] = labelled(labels, picture(key, "PNG" if key % 2 else "JPEG"), key)
            key += 1
    for bounds in ranges:
        payloads[key] = labelled([float(bound) for bound in bounds], key=key)
        key += 1
    return payloads


@pytest.mark.parametrize("two_labels", [False, True])
def test_a_release_is_read(tmp_path, two_labels):
    source = RecordIO(write(tmp_path, release([3, 1, 2], two_labels=two_labels), n_identities=3))
    listing = source.listing()
    assert listing.identities == ("0", "1", "2")
    assert listing.names.tolist() == ["0/1", "0/2", "0/3", "1/4", "2/5", "2/6"]
    for name in listing.names.tolist():
        value = int(name.split("/")[1])
        pixel = decode(source.read(name)).pixels_HWC[4, 4].astype(int)
        np.testing.assert_allclose(pixel, [value, 255 - value, 0], atol=6)


def test_names_are_padded_so_that_their_order_is_the_numbers_order(tmp_path):
    listing = RecordIO(write(tmp_path, release([1] * 12))).listing()
    assert listing.identities[:3] == ("00", "01", "02") and listing.names.tolist()[10] == "10/11"
    assert list(listing.identities) == sorted(listing.identities)


def test_without_a_header_record_every_record_is_an_image(tmp_path):
    payloads = {key: labelled([label], picture(key)) for key, label in [(5, 1.0), (7, 0.0), (9, 1.0)]}
    source = RecordIO(write(tmp_path, payloads))
    assert source.listing().names.tolist() == ["0/7", "1/5", "1/9"]
    assert source.read("1/9") == picture(9)


def test_identities_that_are_numbered_in_another_order_keep_their_numbers(tmp_path):
    listing = RecordIO(write(tmp_path, release([2, 1, 1], numbers=[7, 3, 20]))).listing()
    assert listing.identities == ("03", "07", "20") and listing.names.tolist()[1:3] == ["07/1", "07/2"]


def test_identities_without_images_are_left_out(tmp_path):
    listing = RecordIO(write(tmp_path, release([2, 0, 1]), n_identities=3)).listing()
    assert listing.identities == ("0", "2")


def test_more_images_than_float32_can_count(tmp_path, monkeypatch):
    # With the limit lowered: ranges beyond it are not believed, and may be off by two.
    payloads = release([3, 2, 4])
    expected = RecordIO(write(tmp_path / "a", payloads)).listing()
    monkeypatch.setattr(recordio, "EXACT", 4)
    payloads[0] = labelled([11.0, 14.0])
    payloads[11], payloads[12] = labelled([4.0, 7.0]), labelled([5.0, 9.0])
    found = RecordIO(write(tmp_path / "b", payloads)).listing()
    assert found.names.tolist() == expected.names.tolist() and found.labels.tolist() == expected.labels.tolist()


def test_a_payload_that_holds_the_magic_number_is_put_together_again(tmp_path):
    payload = b"abcd" + MAGIC + b"efgh" + MAGIC + MAGIC + b"x"
    (tmp_path / "one.rec").write_bytes(record(payload))
    assert RecordFile(tmp_path / "one.rec").payload(0) == payload


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.sampled_from([MAGIC, b"\0", b"abc", b"\xff\xff\xff\xff"]), max_size=6).map(b"".join),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_written_is_read(tmp_path, payloads):
    offsets, content = [], b""
    for payload in payloads:
        offsets.append(len(content))
        content += record(payload)
    (tmp_path / "some.rec").write_bytes(content)
    records = RecordFile(tmp_path / "some.rec")
    assert [records.payload(offset) for offset in offsets] == payloads
    assert all(
        payload.startswith(records.payload(offset, 2)) for offset, payload in zip(offsets, payloads, strict=True)
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=64),
        st.tuples(st.integers(0, 7), st.integers(0, 2**29 - 1), st.binary(max_size=48)).map(
            lambda t: MAGIC + struct.pack("<I", t[0] << 29 | t[1]) + t[2]
        ),
        st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=8)), max_size=4).map(
            lambda parts: b"".join(
                MAGIC + struct.pack("<I", f << 29 | len(p)) + p + bytes(-len(p) % 4) for f, p in parts
            )
        ),
    ),
    offset=st.integers(-16, 80),
)
@example(content=MAGIC + struct.pack("<I", 2**29 - 1), offset=0)
@example(content=MAGIC + struct.pack("<I", 1 << 29), offset=0)
def test_no_bytes_can_make_the_parser_read_past_the_end(tmp_path, content, offset):
    (tmp_path / "any.rec").write_bytes(content)
    records = RecordFile(tmp_path / "any.rec")
    try:
        payload = records.payload(offset)
    except InputError as error:
        assert "any.rec at offset" in str(error)
    else:
        assert len(payload) <= len(content) - offset - 8
        try:
            labels, image = unpack_image(payload, "any.rec")
        except InputError:
            return
        assert len(labels) * 4 + len(image) <= len(payload) + 4


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda content: content[:-5], "ends within the file"),
        (lambda content: b"\0" + content[1:], "magic number 0xced72300"),
        (lambda content: content[:4] + struct.pack("<I", 2**29 - 1) + content[8:], "a record of 536,870,911 bytes"),
        (lambda content: content[:4] + struct.pack("<I", 2 << 29 | 4) + content[8:], "continuation flag 2"),
        (lambda content: content[:4] + struct.pack("<I", 7 << 29 | 4) + content[8:], "continuation flag 7"),
        (lambda content: content[:6], "no room for a record"),
        (lambda content: b"", "no room for a record"),
    ],
)
def test_a_damaged_first_record_is_named_with_its_place(tmp_path, damage, expected):
    whole = record(labelled([4.0, 5.0]))
    folder = write(tmp_path, {0: labelled([4.0, 5.0])})
    (folder / "train.rec").write_bytes(damage(whole))
    with pytest.raises(InputError, match="train.rec at offset 0") as caught:
        RecordIO(folder).listing()
    assert expected in str(caught.value)


def test_a_damaged_image_is_rejected_and_the_others_are_read(tmp_path):
    folder = write(tmp_path, release([2, 2]))
    content = bytearray((folder / "train.rec").read_bytes())
    offset = read_index(folder / "train.idx")[1][2]
    content[offset] ^= 255
    (folder / "train.rec").write_bytes(content)
    source = RecordIO(folder)
    names = source.listing().names.tolist()
    with pytest.raises(RejectedImage, match=f"offset {offset}: magic number"):
        source.read(names[1])
    assert source.read(names[0]) == picture(1, "PNG")


def test_an_image_that_says_it_is_of_someone_else_is_rejected(tmp_path):
    payloads = release([2, 2])
    payloads[2] = labelled([1.0], picture(2))
    with pytest.raises(RejectedImage, match="record 2 is of identity 1"):
        RecordIO(write(tmp_path, payloads)).read("0/2")


@pytest.mark.parametrize("name", ["0/99", "0/-1", "x/1", "1", "0/1/2"])
def test_names_that_are_not_in_the_file_are_rejected(tmp_path, name):
    with pytest.raises(RejectedImage):
        RecordIO(write(tmp_path, release([1]))).read(name)


@pytest.mark.parametrize(
    "bounds",
    [[5.0, 2.0], [float("nan"), 3.0], [0.0, float("inf")], [-1.0, 3.0], [1.0, 1e30], [2.0, 4.0, 1.0][:1]],
)
def test_impossible_ranges_are_refused(tmp_path, bounds):
    payloads = release([2, 2])
    payloads[5] = labelled(bounds)
    with pytest.raises(InputError, match="record 5 with the range"):
        RecordIO(write(tmp_path, payloads)).listing()


def test_overlapping_ranges_that_claim_more_images_than_there_are_are_refused(tmp_path):
    payloads = release([3, 3, 3])
    for key in (10, 11, 12):
        payloads[key] = labelled([1.0, 10.0])
    with pytest.raises(InputError, match="ranges of 27 images"):
        RecordIO(write(tmp_path, payloads)).listing()


def test_more_labels_than_bytes_are_refused():
    with pytest.raises(InputError, match="4,294,967,295 labels"):
        unpack_image(struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0) + bytes(40), "here")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0 8\n",
        "0\t0\t0\n",
        "0\n",
        "a\tb\n",
        "1\t-5\n",
        "-1\t5\n",
        "1\t0\n1\t40\n",
        "1\t99999999999999999999999\n",
        "1\t0\n2",
    ],
)
def test_bad_index_files_are_refused(tmp_path, text):
    (tmp_path / "train.idx").write_text(text)
    with pytest.raises(InputError, match="train.idx"):
        read_index(tmp_path / "train.idx")


def test_an_index_of_another_file_is_noticed(tmp_path):
    folder = write(tmp_path, release([2, 2]))
    lines = (folder / "train.idx").read_text().splitlines()
    (folder / "train.idx").write_text("\n".join(f"{line.split()[0]}\t{int(line.split()[1]) + 4}" for line in lines))
    with pytest.raises(InputError, match="train.rec at offset 4: magic number"):
        RecordIO(folder).listing()


@pytest.mark.parametrize("missing", ["train.rec", "train.idx"])
def test_missing_files_are_named(tmp_path, missing):
    folder = write(tmp_path, release([1]))
    (folder / missing).unlink()
    with pytest.raises(InputError, match=f"no file .*{missing}"):
        RecordIO(folder).listing()


HEADER_LAST = {key: release([3, 1, 2])[key] for key in (*range(1, 7), 0, *range(7, 10))}
WITHOUT_IDS = {key: payload[:8] + bytes(8) + payload[16:] for key, payload in HEADER_LAST.items()}
NO_HEADER = {key: labelled([label], picture(key), key) for key, label in [(5, 1.0), (7, 0.0), (9, 1.0)]}


@pytest.mark.parametrize(
    "payloads",
    [release([3, 1, 2]), release([2, 2], two_labels=True), HEADER_LAST, WITHOUT_IDS, NO_HEADER,
     {0: WITHOUT_IDS[0], **{key: WITHOUT_IDS[key] for key in range(1, 10)}}],
)  # fmt: skip
@pytest.mark.parametrize("loss", ["gone", "empty", "cut"])
def test_a_lost_index_is_made_anew_of_the_record_file(tmp_path, payloads, loss):
    folder = write(tmp_path, payloads)
    index = folder / "train.idx"
    keys, offsets = read_index(index)
    known = RecordIO(folder).listing()
    index.unlink() if loss == "gone" else index.write_text("" if loss == "empty" else "0\t0\n1\t")
    with pytest.raises(InputError, match="source.rebuild_index=true"):
        RecordIO(folder).listing()
    again = RecordIO(folder, rebuild_index=True).listing()
    assert again.names.tolist() == known.names.tolist() and again.identities == known.identities
    for one, other in zip(read_index(index), (keys, offsets), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"no record", record(b"short"), record(labelled([1.0], picture(3)))[:-40]])
def test_no_index_is_made_of_a_damaged_record_file(tmp_path, content):
    (tmp_path / "train.rec").write_bytes(content)
    with pytest.raises(InputError, match="train.rec"):
        RecordIO(tmp_path, rebuild_index=True).listing()
    assert [file.name for file in tmp_path.iterdir()] == ["train.rec"]


def test_an_index_that_can_be_read_stays(tmp_path):
    folder = write(tmp_path, release([2, 2]))
    before = (folder / "train.idx").stat().st_mtime_ns
    RecordIO(folder, rebuild_index=True).listing()
    assert (folder / "train.idx").stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["4,112,112", "many"])
def test_a_property_file_that_does_not_fit_is_refused(tmp_path, text):
    folder = write(tmp_path, release([1, 1]))
    (folder / "property").write_text(text)
    with pytest.raises(InputError, match="property"):
        RecordIO(folder).listing()


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path):
    folder = write(tmp_path, release([1, 1]))
    source = RecordIO(folder)
    source.listing()
    with open(folder / "train.rec", "r+b") as stream:
        stream.truncate(60)
    with pytest.raises(RejectedImage, match="train.rec at offset"):
        source.read("1/2")


def test_sources_travel_to_worker_processes(tmp_path):
    source = RecordIO(write(tmp_path, release([1, 1])))
    source.listing()
    source.read("0/1")
    assert pickle.loads(pickle.dumps(source)).read("1/2") == picture(2, "JPEG")
