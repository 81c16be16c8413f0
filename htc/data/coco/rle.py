"""Which compressed run lengths are whole: pycocotools reads and writes beyond its memory where they are not."""

from __future__ import annotations

import numpy as np

FIRST_CHARACTER, LAST_CHARACTER = 48, 111
"""Six bits a character, from '0': five of the number, and whether it goes on."""
LONGEST_NUMBER = 7
"""Characters of a number; more do not fit the 32 bits of a run."""
BLOCK = 1 << 20
"""Bytes that are checked together."""


def whole_run_lengths(data: np.ndarray, ranges: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Whether each string of run lengths can be decoded and covers its image exactly, [n] bool.

    data: [b] uint8; ranges: [n, 2] int64, where each string begins and ends in `data`; pixels: [n] int64, height x
    width. The format is that of pycocotools' `rleFrString`. An empty string is not whole.
    """
    whole = np.zeros(len(ranges), bool)
    lengths = ranges[:, 1] - ranges[:, 0]
    filled = np.flatnonzero(lengths > 0)
    blocks = np.cumsum(lengths[filled]) // BLOCK
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    for chosen in np.split(filled, starts[1:]) if len(filled) else []:
        first = np.cumsum(lengths[chosen]) - lengths[chosen]
        positions = np.repeat(ranges[chosen, 0] - first, lengths[chosen]) + np.arange(lengths[chosen].sum())
        whole[chosen] = _whole(data[positions], first, pixels[chosen])
    return whole


def _whole(data: np.ndarray, first: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """As `whole_run_lengths` of strings that lie end to end, none empty; first: [n], where each begins."""
    owner = np.zeros(len(data), np.int64)
    owner[first[1:]] = 1
    owner = np.cumsum(owner)
    good = np.ones(len(first), bool)
    good[owner[(data < FIRST_CHARACTER) | (data > LAST_CHARACTER)]] = False
    bits = (data.astype(np.int64) - FIRST_CHARACTER) & 63
    last = (bits & 32) == 0
    final = np.append(first[1:], len(data)) - 1
    good &= last[final]
    # A string that breaks off would run on into the next one.
    last[final] = True

    ends = np.flatnonzero(last)
    begins = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - begins + 1
    owners = owner[ends]
    good[owners[digits > LONGEST_NUMBER]] = False
    place = np.arange(len(data)) - np.repeat(begins, digits)
    parts = (bits & 31) << (5 * np.minimum(place, LONGEST_NUMBER))
    numbers = np.add.reduceat(parts, begins)
    negative = (bits[ends] & 16) != 0
    numbers -= np.where(negative, np.int64(1) << (5 * np.minimum(digits, LONGEST_NUMBER + 1)), 0)

    counts_first = np.searchsorted(owners, np.arange(len(first)))
    rank = np.arange(len(numbers)) - counts_first[owners]
    counts = np.empty_like(numbers)
    # From the fourth on, each number is the difference to the run before the last one.
    for parity in (0, 1):
        chain = np.flatnonzero((rank % 2 == parity) & (rank > 0))
        if len(chain) == 0:
            continue
        totals = np.cumsum(numbers[chain])
        starts = np.flatnonzero(np.diff(owners[chain], prepend=-1))
        before = totals[starts] - numbers[chain[starts]]
        counts[chain] = totals - np.repeat(before, np.diff(starts, append=len(chain)))
    counts[rank == 0] = numbers[rank == 0]
    good[owners[counts < 0]] = False
    covered = np.add.reduceat(counts, counts_first)
    return good & (covered == pixels)
