from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.prepare import lines
from data.prepare.lines import LineReader, count_lines, find_files


def read_all(path: Path, num_lines: int, *, offset: int = 0) -> list[tuple[bytes, int]]:
    blocks = []
    with LineReader(str(path), offset=offset) as reader:
        while (block := reader.block(num_lines))[1]:
            blocks.append(block)
    return blocks


@given(
    text=st.text(alphabet="ab\n", max_size=60).map(str.encode),
    num_lines=st.integers(1, 7),
    chunk=st.integers(1, 9),
    packed=st.booleans(),
)
def test_blocks_are_the_file_cut_at_every_nth_newline(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, num_lines: int, chunk: int, packed: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "text"
    path.write_bytes(gzip.compress(text) if packed else text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK_BYTES", chunk)
        blocks = read_all(path, num_lines)
        count = count_lines(str(path))
    expected = text.splitlines(keepends=True)
    if expected and not text.endswith(b"\n"):
        expected[-1] += b"\n"
    assert [line for block, _ in blocks for line in block.splitlines(keepends=True)] == expected
    assert [n for _, n in blocks] == [len(expected[i : i + num_lines]) for i in range(0, len(expected), num_lines)]
    assert count == len(expected)


@pytest.mark.parametrize("packed", [False, True])
def test_reading_goes_on_from_an_offset(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "text"
    text = b"".join(b"line %d\n" % n for n in range(100))
    path.write_bytes(gzip.compress(text) if packed else text)
    with LineReader(str(path)) as reader:
        before, _ = reader.block(37)
        offset = reader.offset
    assert offset == len(before)
    assert before + b"".join(block for block, _ in read_all(path, 10, offset=offset)) == text


def test_a_file_without_newlines_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with path.open("wb") as file:
        file.truncate(3 * lines.MAX_LINE_BYTES)
    with pytest.raises(DataError, match=r"model.bin: a line is longer than 16,777,216 bytes; is this a text file"):
        read_all(path, 1)


def test_a_truncated_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "day_0.gz"
    path.write_bytes(gzip.compress(b"1\t2\n" * 100_000)[:-20])
    with pytest.raises(DataError, match=r"day_0.gz: cannot be read .* copy the file anew"):
        read_all(path, 1000)


def test_a_corrupt_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "day_0.gz"
    packed = bytearray(gzip.compress(b"".join(b"%d\n" % (n * n) for n in range(10_000))))
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(packed)
    with pytest.raises(DataError, match=r"day_0.gz: cannot be read"):
        read_all(path, 1000)


def test_files_of_a_glob_come_in_natural_order_and_a_list_keeps_its_own(tmp_path: Path) -> None:
    names = [f"day_{n}" for n in (0, 1, 2, 10, 11)]
    for name in names:
        (tmp_path / name).write_text("x")
    wanted = [str(tmp_path / name) for name in names]
    assert find_files(str(tmp_path / "day_*"), key="source.files") == wanted
    assert find_files(str(tmp_path), key="source.files") == wanted
    assert find_files([wanted[3], str(tmp_path / "day_?")], key="source.files") == [wanted[3], *wanted[:3]]


def test_a_glob_without_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source.files: '.*nothing-\*' matches no file"):
        find_files(str(tmp_path / "nothing-*"), key="source.files")
