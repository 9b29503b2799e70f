# SPDX-License-Identifier: MIT
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import arff as scipy_arff

from datamodules.errors import InputError
from datamodules.sources import arff
from datamodules.sources.arff import read_arff, read_label_names

HEADER = "@relation r\n@attribute a numeric\n@attribute 'b c' {0,1}\n@attribute d {no,yes}\n@data\n"


@pytest.fixture
def written(tmp_path):
    def write(text, name="set.arff"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_dense_and_sparse_rows_comments_and_case(written):
    text = "% comment\n\n@RELATION 'r x'\n@Attribute a REAL\n@ATTRIBUTE 'b c' {0,1}\n@attribute d { no , yes }\n@DATA\n"
    table = read_arff(written(text + "1.5, 1, yes\n% comment\n{0 -2e3, 2 yes}\n{ }\n{1 1}\n"))
    assert table.names == ("a", "b c", "d") and table.values.dtype == np.float32
    np.testing.assert_array_equal(table.values, [[1.5, 1, 1], [-2000, 0, 1], [0, 0, 0], [0, 1, 0]])


def test_what_a_sparse_row_leaves_out_is_the_first_nominal_value(written):
    table = read_arff(written("@relation r\n@attribute a {7, 3}\n@attribute b numeric\n@data\n{1 4}\n{0 3}\n{0 7}\n"))
    np.testing.assert_array_equal(table.values, [[7, 4], [3, 0], [7, 0]])


def test_quoted_names_and_values(written):
    text = "@relation r\n@attribute 'it\\'s, {odd}' {'a b','c,d'}\n@attribute \"q\"{0,1}\n"
    text += "@attribute don't integer\n@data\n"
    table = read_arff(written(text + "'c,d',1,5\n{0 'a b', 2 6}\n{0 'c,d'}\n"))
    assert table.names == ("it's, {odd}", "q", "don't")
    np.testing.assert_array_equal(table.values, [[1, 1, 5], [0, 0, 6], [1, 0, 0]])


def test_a_nominal_number_may_be_written_in_another_way_but_a_name_may_not(written):
    assert read_arff(written(HEADER + "0,1.0,no\n")).values[0, 1] == 1
    with pytest.raises(InputError, match="'1' for attribute 2"):
        read_arff(written(HEADER + "0,1,1\n"))


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "without a line @data"),
        ("@relation r\n@data\n1\n", "before any @attribute"),
        ("@relation r\n@attribute a numeric\n1\n", "line 3"),
        ("@relation r\n@attribute a\n@data\n1\n", "line 2"),
        ("@relation r\n@attribute 'a numeric\n@data\n1\n", "line 2"),
        ("@relation r\n@attribute a string\n@data\nx\n", "of type 'string'"),
        ("@relation r\n@attribute a date 'yyyy'\n@data\n2000\n", "of type"),
        ("@relation r\n@attribute a {x,y,z}\n@data\nx\n", "3 values that are no numbers"),
        ("@relation r\n@attribute a {x,x}\n@data\nx\n", "distinct names"),
        ("@relation r\n@attribute a {}\n@data\nx\n", "distinct names"),
        ("@relation r\n@attribute a numeric\n@attribute a numeric\n@data\n1,2\n", "two attributes 'a'"),
        (HEADER, "without a row"),
        (HEADER + "1,0\n", "line 6 with 2 values"),
        (HEADER + "1,0,no,4\n", "line 6 with 4 values"),
        (HEADER + "1,0,'no\n", "unbalanced quotes"),
        (HEADER + "1,0,no\n?,0,no\n", "line 7, a missing value for attribute 0"),
        (HEADER + "x,0,no\n", "'x' for attribute 0"),
        (HEADER + "nan,0,no\n", "'nan' for attribute 0"),
        (HEADER + "1e39,0,no\n", "'1e39' for attribute 0"),
        (HEADER + "1_0,0,no\n", "'1_0' for attribute 0"),
        (HEADER + "1,2,no\n", "'2' for attribute 1"),
        (HEADER + "{0 1, 1 1\n", "does not end"),
        (HEADER + "{0 1, 3 1}\n", "attribute 3"),
        (HEADER + "{-1 1}\n", "'-1 1' in a sparse row"),
        (HEADER + "{0}\n", "'0' in a sparse row"),
        (HEADER + "{0 1, 0 2}\n", "two values"),
        (HEADER + "{99999999999999 1}\n", "in a sparse row"),
        (HEADER.encode() + b"\xff,0,no\n", "not UTF-8"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line_that_names_the_place(written, text, words):
    path = written(text)
    with pytest.raises(InputError, match=words) as refused:
        read_arff(path)
    assert path.name in str(refused.value) and "\n" not in str(refused.value)


def test_bounds(written, monkeypatch):
    monkeypatch.setattr(arff, "MAX_CELLS", 8)
    read_arff(written(HEADER + "1,0,no\n" * 2))
    with pytest.raises(InputError, match="at most 8 cells"):
        read_arff(written(HEADER + "1,0,no\n" * 3))
    monkeypatch.setattr(arff, "MAX_LINE", 40)
    with pytest.raises(InputError, match="line 6 of more than 40"):
        read_arff(written(HEADER + "1," + "0" * 50 + ",no\n"))
    with pytest.raises(InputError, match="no readable file"):
        read_arff("nowhere.arff")


numbers = st.floats(-1e6, 1e6, allow_nan=False, width=32)
names = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="\x7f\x85\xa0"), min_size=1, max_size=8
)


@given(st.data())
def test_a_table_written_dense_or_sparse_comes_back(tmp_path_factory, data):
    width = data.draw(st.integers(1, 5))
    titles = data.draw(st.lists(names, min_size=width, max_size=width, unique=True))
    values = np.array(
        data.draw(st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=5)), np.float32
    )
    lines = ["@relation made"]
    for title in titles:
        escaped = title.replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"@attribute '{escaped}' numeric")
    lines.append("@data")
    for row in values:
        if data.draw(st.booleans()):
            lines.append(",".join(repr(float(value)) for value in row))
        else:
            lines.append(
                "{" + ", ".join(f"{place} {float(value)!r}" for place, value in enumerate(row) if value != 0) + "}"
            )
    path = tmp_path_factory.mktemp("arff") / "made.arff"
    path.write_text("\n".join(lines), encoding="utf-8")
    table = read_arff(path)
    assert table.names == tuple(titles)
    np.testing.assert_array_equal(table.values, values)


@given(st.text(st.sampled_from("@attributedatarelationnumeric{}01,' \"\\\n?%\x00-.e"), max_size=120))
def test_any_text_is_read_or_refused_but_never_breaks(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("arff") / "any.arff"
    for content in (text, HEADER + text):
        path.write_text(content, encoding="utf-8")
        try:
            table = read_arff(path)
        except InputError as refused:
            assert "\n" not in str(refused)
        else:
            assert np.isfinite(table.values).all() and table.values.shape[1] == len(table.names)


def test_dense_files_read_as_by_scipy(written):
    random = np.random.default_rng(0)
    rows = [
        f"{a:.4f},{b},{c}"
        for a, b, c in zip(random.normal(size=9), random.integers(2, size=9), random.integers(5, size=9))
    ]
    text = "@relation r\n@attribute a numeric\n@attribute b {0,1}\n@attribute c integer\n@data\n" + "\n".join(rows)
    theirs, _ = scipy_arff.loadarff(io.StringIO(text))
    expected = np.array([[row[0], float(row[1]), row[2]] for row in theirs], np.float32)
    np.testing.assert_array_equal(read_arff(written(text)).values, expected)


# XML ------------------------------------------------------------------------------------------------------------------

XMLNS = '<?xml version="1.0"?><labels xmlns="http://mulan.sourceforge.net/labels">'


def test_labels_of_a_hierarchy_in_the_order_of_the_file(written):
    text = XMLNS + '<label name="a"><label name="b &amp; c"/></label><m:label xmlns:m="x" name="d"></m:label></labels>'
    assert read_label_names(written(text, "l.xml")) == ("a", "b & c", "d")


@pytest.mark.parametrize(
    "text, words",
    [
        (XMLNS + "</labels>", "without a label"),
        (XMLNS + "<label/></labels>", "without a name"),
        (XMLNS + '<label name="a"/>', "no XML"),
        (XMLNS + '<label name="a"/><label name="a"/></labels>', "two labels 'a'"),
        ('<!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><labels><label name="&b;"/></labels>', "document type"),
        ("", "no XML"),
        ('<?xml version="1.0" encoding="utf-z"?><labels/>', "no XML .unknown encoding"),
        ('<?xml version="1.0" encoding="big5"?><labels/>', "no XML .multi-byte"),
    ],
)
def test_xml_that_lists_no_labels_is_refused(written, text, words):
    with pytest.raises(InputError, match=words):
        read_label_names(written(text, "l.xml"))


def test_large_and_absent_xml_are_refused(written, monkeypatch):
    monkeypatch.setattr(arff, "MAX_XML_BYTES", 10)
    with pytest.raises(InputError, match="at most 10"):
        read_label_names(written(XMLNS + "</labels>", "l.xml"))
    with pytest.raises(InputError, match="no readable file"):
        read_label_names("nowhere.xml")


@pytest.mark.parametrize("name, shape, labels", [("emotions", (593, 78), 6), ("medical", (978, 1494), 45)])
def test_published_sets_have_their_published_sizes(shared_data, name, shape, labels):
    folder = shared_data("multilabel")
    assert read_arff(folder / f"{name}.arff").values.shape == shape
    assert len(read_label_names(folder / f"{name}.xml")) == labels
