from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.hashing import derive_seed, fnv1a_64, mix64, permutation


@pytest.mark.parametrize(
    ("text", "published"),
    # draft-eastlake-fnv, appendix C: 64-bit FNV-1a without a trailing NUL.
    [
        ("", 0xCBF29CE484222325),
        ("a", 0xAF63DC4C8601EC8C),
        ("b", 0xAF63DF4C8601F1A5),
        ("fo", 0x08985907B541D342),
        ("foo", 0xDCB27518FED9D577),
        ("foob", 0xDD120E790C2512AF),
        ("fooba", 0xCAC165AFA2FEF40A),
        ("foobar", 0x85944171F73967E8),
    ],
)
def test_fnv1a_gives_the_published_hashes(text: str, published: int) -> None:
    assert fnv1a_64(pa.array([text])).tolist() == [published]


def _fnv1a_byte_by_byte(text: bytes) -> int:
    state = 0xCBF29CE484222325
    for byte in text:
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


@given(st.lists(st.binary(max_size=40), max_size=30), st.sampled_from([pa.binary(), pa.large_binary()]))
def test_fnv1a_of_many_equals_the_hash_of_each(texts: list[bytes], kind: pa.DataType) -> None:
    assert fnv1a_64(pa.array(texts, kind)).tolist() == [_fnv1a_byte_by_byte(text) for text in texts]


def test_fnv1a_of_strings_of_one_length_equals_the_hash_of_each() -> None:
    texts = [f"{n:08x}" for n in range(0, 5000, 7)]
    assert fnv1a_64(pa.array(texts)).tolist() == [_fnv1a_byte_by_byte(text.encode()) for text in texts]


def test_fnv1a_of_a_slice_ignores_what_lies_around_it() -> None:
    texts = pa.array(["left", "é", "foobar", "right"])
    assert fnv1a_64(texts.slice(1, 2)).tolist() == [_fnv1a_byte_by_byte("é".encode()), 0x85944171F73967E8]


def test_fnv1a_takes_nulls_for_empty_strings() -> None:
    assert fnv1a_64(pa.array([None, "a"])).tolist() == [0xCBF29CE484222325, 0xAF63DC4C8601EC8C]
    assert fnv1a_64(pa.array([None, None], pa.string())).tolist() == [0xCBF29CE484222325] * 2


def test_mix64_gives_the_published_sequence_of_splitmix64() -> None:
    # The first outputs of Vigna's splitmix64.c with the state 0.
    golden = np.uint64(0x9E3779B97F4A7C15)
    states = np.arange(3, dtype=np.uint64) * golden
    assert mix64(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_derive_seed_is_stable_and_depends_on_every_part_and_their_order() -> None:
    assert derive_seed(0) == 0xE220A8397B1DCDAF
    assert derive_seed(1, 2) == 0xBCD9DBB49673066B
    seeds = {derive_seed(*parts) for parts in [(1, 2), (2, 1), (1,), (1, 2, 0), (0, 2), (-1, 2)]}
    assert len(seeds) == 6


@given(st.integers(0, 300), st.integers(-(2**70), 2**70))
def test_permutation_holds_every_number_once(n: int, seed: int) -> None:
    assert sorted(permutation(n, seed).tolist()) == list(range(n))


def test_permutation_is_stable_across_versions() -> None:
    assert permutation(10, 7).tolist() == [4, 2, 0, 9, 3, 8, 6, 5, 1, 7]
    large = permutation(100_000, 12345).astype("<i8").tobytes()
    assert hashlib.sha256(large).hexdigest().startswith("ee547f832d85fb1d")
    assert permutation(10, 8).tolist() != permutation(10, 7).tolist()
