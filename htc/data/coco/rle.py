"""Validation of compressed run lengths, because pycocotools accesses memory out of bounds for invalid ones."""

from __future__ import annotations

import numpy as np

FIRST_CHARACTER, LAST_CHARACTER = 48, 111
"""Each character holds six bits, starting at '0': five bits of a number and one that says whether it continues."""
LONGEST_NUMBER = 7
"""Number of characters of the longest number; more do not fit the 32 bits of a run."""
BLOCK = 1 << 20
"""Number of bytes that are checked together, which limits the memory."""


def valid_run_lengths(data: np.ndarray, ranges: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return whether each string of run lengths can be decoded and covers its image exactly.

    The format is that of pycocotools' `rleFrString`. An empty string is invalid.

    Args:
        data: [b] uint8, the strings.
        ranges: [n, 2] int64, where each string begins and ends in `data`.
        pixels: [n] int64, height x width of each string's image.

    Returns:
        [n] bool.
    """
    valid = np.zeros(len(ranges), bool)
    lengths = ranges[:, 1] - ranges[:, 0]
    filled = np.flatnonzero(lengths > 0)
    blocks = np.cumsum(lengths[filled]) // BLOCK
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    for chosen in np.split(filled, starts[1:]) if len(filled) else []:
        first = np.cumsum(lengths[chosen]) - lengths[chosen]
        positions = np.repeat(ranges[chosen, 0] - first, lengths[chosen]) + np.arange(lengths[chosen].sum())
        valid[chosen] = _valid_strings(data[positions], first, pixels[chosen])
    return valid


def _valid_strings(data: np.ndarray, first: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Check one block for `valid_run_lengths`: `data` holds concatenated strings, none empty, that begin at `first`."""
    owner = np.zeros(len(data), np.int64)
    owner[first[1:]] = 1
    owner = np.cumsum(owner)
    valid = np.ones(len(first), bool)
    valid[owner[(data < FIRST_CHARACTER) | (data > LAST_CHARACTER)]] = False
    bits = (data.astype(np.int64) - FIRST_CHARACTER) & 63
    last = (bits & 32) == 0
    final = np.append(first[1:], len(data)) - 1
    valid &= last[final]
    # A string that is cut off must not continue into the next one.
    last[final] = True

    ends = np.flatnonzero(last)
    begins = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - begins + 1
    owners = owner[ends]
    valid[owners[digits > LONGEST_NUMBER]] = False
    digit = np.arange(len(data)) - np.repeat(begins, digits)
    parts = (bits & 31) << (5 * np.minimum(digit, LONGEST_NUMBER))
    numbers = np.add.reduceat(parts, begins)
    negative = (bits[ends] & 16) != 0
    numbers -= np.where(negative, np.int64(1) << (5 * np.minimum(digits, LONGEST_NUMBER + 1)), 0)

    counts_first = np.searchsorted(owners, np.arange(len(first)))
    rank = np.arange(len(numbers)) - counts_first[owners]
    counts = np.empty_like(numbers)
    # From the fourth number on, each is the difference from the run two places before.
    for parity in (0, 1):
        chain = np.flatnonzero((rank % 2 == parity) & (rank > 0))
        if len(chain) == 0:
            continue
        totals = np.cumsum(numbers[chain])
        starts = np.flatnonzero(np.diff(owners[chain], prepend=-1))
        before = totals[starts] - numbers[chain[starts]]
        counts[chain] = totals - np.repeat(before, np.diff(starts, append=len(chain)))
    counts[rank == 0] = numbers[rank == 0]
    valid[owners[counts < 0]] = False
    covered = np.add.reduceat(counts, counts_first)
    return valid & (covered == pixels)
