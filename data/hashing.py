"""64-bit hashes that are the same on every machine, Python and library version.

NumPy's own generators and Python's ``hash`` promise no such thing across versions, and both the order
of the samples and the rows of hashed features have to outlive an upgrade.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

UInt64Array = npt.NDArray[np.uint64]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


def mix64(values: UInt64Array) -> UInt64Array:
    """The SplitMix64 finalizer (Steele, Lea, Flood 2014), element by element.

    A bijection on 64-bit integers: distinct inputs give distinct outputs.

    Args:
        values: uint64, any shape.

    Returns:
        uint64, same shape.
    """
    z = values + np.uint64(_GOLDEN)
    shifted = z >> np.uint64(30)
    z ^= shifted
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= np.right_shift(z, np.uint64(27), out=shifted)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= np.right_shift(z, np.uint64(31), out=shifted)
    return z


def derive_seed(*parts: int) -> int:
    """One 64-bit seed from several integers (a user's seed, an epoch, a table's number, ...)."""
    # mix64 of single numbers, for which NumPy would take many times as long: a step asks for a seed of every mask.
    z = 0
    for part in parts:
        z = ((z ^ part & _MASK) + _GOLDEN) & _MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        z ^= z >> 31
    return z


def permutation(n: int, seed: int) -> npt.NDArray[np.int64]:
    """A permutation of 0..n-1 that depends on nothing but ``n`` and ``seed``.

    Sorts the indices by their hashes, which are distinct because ``mix64`` is a bijection: no ties, so
    the result does not depend on the sorting algorithm either.
    """
    keys = mix64(np.arange(n, dtype=np.uint64) ^ np.uint64(seed & _MASK))
    # NumPy sorts 16-bit integers by radix, several times faster than whole keys: least significant
    # digit first, the upper 32 bits ...
    upper = (keys >> np.uint64(32)).astype(np.uint32)
    order = np.argsort(upper.astype(np.uint16), kind="stable")
    order = order[np.argsort((upper >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]
    # ... and the few that agree in those once more by their whole keys.
    ordered = upper[order]
    ties = np.flatnonzero(ordered[1:] == ordered[:-1])
    if ties.size:
        places = np.unique(np.concatenate([ties, ties + 1]))
        tied = order[places]
        order[places] = tied[np.argsort(keys[tied])]
    return order


def fnv1a_64(strings: pa.Array) -> UInt64Array:
    """FNV-1a (64 bit, Fowler, Noll, Vo) of the UTF-8 bytes of each string, vectorized over the strings.

    Args:
        strings: Arrow string, large_string, binary or large_binary array; nulls hash as "".

    Returns:
        uint64 [len(strings)].
    """
    n = len(strings)
    result = np.full(n, _FNV_OFFSET, np.uint64)
    if n == 0:
        return result
    wide = pa.types.is_large_string(strings.type) or pa.types.is_large_binary(strings.type)
    _, offset_buffer, byte_buffer = strings.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64 if wide else np.int32)
    offsets = offsets[strings.offset : strings.offset + n + 1].astype(np.int64)
    lengths = np.diff(offsets)
    longest = int(lengths.max())
    text = np.frombuffer(byte_buffer, np.uint8) if byte_buffer is not None else np.empty(0, np.uint8)
    if int(lengths.min()) == longest:
        for column in text[offsets[0] : offsets[-1]].reshape(n, longest).T:
            result ^= column
            result *= _FNV_PRIME
        return result
    # Longest first: at byte k only the first strings are still running, and the rest is never touched.
    # NumPy sorts 16-bit integers by radix.
    shortfall = longest - lengths
    longest_first = np.argsort(shortfall.astype(np.uint16) if longest < 1 << 16 else shortfall, kind="stable")
    starts, running = offsets[:-1][longest_first], n - np.cumsum(np.bincount(lengths, minlength=longest + 1))
    hashes = np.full(n, _FNV_OFFSET, np.uint64)
    for k in range(longest):
        alive = hashes[: running[k]]
        alive ^= text[starts[: running[k]] + k]
        alive *= _FNV_PRIME
    result[longest_first] = hashes
    return result
