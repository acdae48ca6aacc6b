from __future__ import annotations

import csv

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data.prepare.delimited import Layout, parse_block

LAYOUT = Layout({"y": pa.int8(), "n": pa.int32(), "s": pa.string()}, ",", label="y")

number = st.integers(-(2**31), 2**31 - 1).map(str) | st.just("")
good = st.tuples(st.sampled_from("01"), number, st.text("abé ", max_size=4))
good_line = good.map(lambda fields: ",".join(fields).encode())
bad_line = st.sampled_from(
    [
        *(b"", b"1", b"1,2", b"1,2,3,4", b"2,2,a", b",2,a", b"1,x,a", b"1,2.5,a", b"1,99999999999,a"),
        *(b"1,2,\xff", b"1,2,\rb", b"\xff"),
    ]
)


@given(st.lists(good_line.map(lambda line: (line, True)) | bad_line.map(lambda line: (line, False)), max_size=40))
def test_good_lines_are_taken_and_bad_ones_numbered_wherever_they_stand(cases: list[tuple[bytes, bool]]) -> None:
    text = b"".join(line + b"\n" for line, _ in cases)
    parsed = parse_block(text, len(cases), LAYOUT, path="f", first_line=101)
    kept = [i for i, (_, taken) in enumerate(cases) if taken]
    assert parsed.lines.tolist() == kept
    assert [bad.line for bad in parsed.bad] == [101 + i for i, (_, taken) in enumerate(cases) if not taken]
    expected = [cases[i][0].decode().split(",") for i in kept]
    rows = [[int(y), int(n) if n else None, s or None] for y, n, s in expected]
    assert [list(row.values()) for row in parsed.table.to_pylist()] == rows


quoted_field = st.text('ab;" é', max_size=5)


@given(st.lists(st.tuples(quoted_field, quoted_field), min_size=1, max_size=10))
def test_quoted_fields_are_those_of_the_csv_module(rows: list[tuple[str, str]]) -> None:
    layout = Layout({"a": pa.string(), "b": pa.string()}, ";", quoted=True)
    lines = [";".join('"' + field.replace('"', '""') + '"' for field in row) for row in rows]
    parsed = parse_block("".join(f"{line}\n" for line in lines).encode(), len(rows), layout, path="f", first_line=1)
    expected = [[field or None for field in row] for row in csv.reader(lines, delimiter=";")]
    assert parsed.bad == []
    assert [list(row.values()) for row in parsed.table.to_pylist()] == expected


def test_a_quote_left_open_costs_its_own_line_only() -> None:
    layout = Layout({"a": pa.int64(), "b": pa.string()}, ",", quoted=True)
    parsed = parse_block(b'1,"x"\n2,"y\n3,"z"\n4,"w\n', 4, layout, path="f", first_line=1)
    assert parsed.table["a"].to_pylist() == [1, 3]
    assert [str(bad) for bad in parsed.bad] == [
        "f, line 2: has a quote that is not closed",
        "f, line 4: has a quote that is not closed",
    ]


def test_a_required_field_and_an_infinite_number_are_damage() -> None:
    layout = Layout({"x": pa.float64(), "t": pa.int64()}, ",", required=("t",))
    parsed = parse_block(b"1,1\n2,\ninf,3\n,4\nnan,5\n", 5, layout, path="f", first_line=1)
    assert parsed.table["t"].to_pylist() == [1, 4, 5]
    assert [str(b) for b in parsed.bad] == ["f, line 2: column 't' is empty", "f, line 3: column 'x' is infinite"]


stray = st.text('a";', min_size=1, max_size=6)


@given(st.lists(stray, min_size=1, max_size=8))
def test_stray_quotes_never_cost_a_line_its_neighbours(texts: list[str]) -> None:
    """Each line alone is taken or left, and together it is the same."""
    layout = Layout({"a": pa.string(), "b": pa.string()}, ";", quoted=True)
    alone = [parse_block(f"{text}\n".encode(), 1, layout, path="f", first_line=1).table.to_pylist() for text in texts]
    block = "".join(f"{text}\n" for text in texts).encode()
    parsed = parse_block(block, len(texts), layout, path="f", first_line=1)
    assert parsed.table.to_pylist() == [row for rows in alone for row in rows]
    assert len(parsed.bad) == len(texts) - parsed.table.num_rows


def test_a_quote_within_an_unquoted_field_is_a_character() -> None:
    layout = Layout({"a": pa.int64(), "b": pa.string()}, ",", quoted=True)
    parsed = parse_block(b'1,5" tube\n2,x\n', 2, layout, path="f", first_line=1)
    assert parsed.table["b"].to_pylist() == ['5" tube', "x"]


def test_a_long_quoted_field_is_taken() -> None:
    layout = Layout({"a": pa.int64(), "b": pa.string()}, ",", quoted=True)
    parsed = parse_block(b'1,"%s"\n' % (b"x" * 300_000), 1, layout, path="f", first_line=1)
    assert [len(value) for value in parsed.table["b"].to_pylist()] == [300_000]


def test_integers_of_64_bits_are_told_from_longer_ones() -> None:
    layout = Layout({"a": pa.int64()}, ",")
    parsed = parse_block(b"9223372036854775807\n9223372036854775808\n -5 \n", 3, layout, path="f", first_line=1)
    assert parsed.table["a"].to_pylist() == [2**63 - 1, -5]
    assert str(parsed.bad[0]) == "f, line 2: column 'a' has to be an integer, but is '9223372036854775808'"
