"""Samples that are copies of others: equal in every stored byte."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.read.blocks import Halves
from latentkit.read.bytes import as_bytes
from latentkit.stats.extrema import Names, Place
from latentkit.stats.sums import Arrays, fill

#: So many samples are compared, the first in order of file, tensor and index: 32 MiB of hashes and places.
MOST_SAMPLES = 1 << 21
#: So many copies are named.
NAMED = 10

# Entries that may stand beyond the bound before they are sorted out.
_SLACK = 1 << 18
_ROWS = 1 << 14
_INDEX_BITS = 32

Codes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Copy:
    """A sample, and the first that it equals."""

    sample: Place
    copy_of: Place


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Samples whose shape, dtype and stored bytes, of mean and scale, equal an earlier one's.

    ``duplicate_count`` repeat an earlier sample; with those that they repeat they form ``groups``. ``is_capped``: there
    were more samples than the ``samples_hashed``, which are then the first by file, tensor and index. ``pairs`` are
    the first few. Bytes are told apart by 64 bits of BLAKE2b: two that differ among 2 million are taken for equal with
    a chance of 1e-7.
    """

    duplicate_count: int
    groups: int
    samples_hashed: int
    is_capped: bool
    pairs: list[Copy]


class SampleHashes:
    """A hash and a place of each sample, 16 bytes together. Threads may share one."""

    def __init__(self, most: int = MOST_SAMPLES) -> None:
        self._most = most
        self._count = 0
        self._entries: Codes = np.zeros((2, 1 << 10), np.uint64)
        self._names: dict[tuple[str, str], int] = {}
        self._is_capped = False
        # Where the last of them stands, once there are more: what comes behind it is not even hashed.
        self._last: tuple[str, str, int] | None = None
        self._lock = Lock()

    def update(self, halves: Halves, rows: range, place: Place) -> None:
        """Take these samples of a block, which are whole; ``place`` is that of the first."""
        if self._last is not None and (place.name, place.key, place.index) > self._last:
            return
        hashes = _hashes(halves, rows)
        with self._lock:
            number = self._names.setdefault((place.name, place.key), len(self._names))
            first = (number << _INDEX_BITS) + place.index
            self._take(hashes, np.arange(first, first + len(hashes), dtype=np.uint64))

    def merge(self, other: "SampleHashes") -> None:
        if other is self:
            return
        numbers = [self._names.setdefault(name, len(self._names)) for name in other._names]
        hashes, places = other._entries[:, : other._count]
        self._take(hashes, _renumbered(places, np.array(numbers, np.uint64)))
        self._is_capped |= other._is_capped

    def _take(self, hashes: Codes, places: Codes) -> None:
        end = self._count + len(hashes)
        if end > self._entries.shape[1]:
            room = max(end, min(2 * self._entries.shape[1], self._most + _SLACK))
            grown = np.zeros((2, room), np.uint64)
            grown[:, : self._count] = self._entries[:, : self._count]
            self._entries = grown
        self._entries[:, self._count : end] = hashes, places
        self._count = end
        if end > self._most + _SLACK:
            self._trim()

    def _trim(self) -> None:
        """Keep the first by place."""
        if self._count <= self._most:
            return
        places = self._entries[1, : self._count]
        ranked = self._ranked(places)
        last = np.partition(ranked, self._most - 1)[self._most - 1]
        place = _place(sorted(self._names), last)
        self._last = place.name, place.key, place.index
        kept = ranked <= last
        for row in self._entries:
            row[: self._most] = row[: self._count][kept][: self._most]
        self._count, self._is_capped = self._most, True

    def _ranked(self, places: Codes) -> Codes:
        """Places with the rank of their file and tensor by name, instead of its number: they sort."""
        ranks = np.zeros(len(self._names), np.uint64)
        ranks[[self._names[name] for name in sorted(self._names)]] = np.arange(len(self._names), dtype=np.uint64)
        return _renumbered(places, ranks)

    def figures(self) -> Duplicates:
        """What it comes to."""
        self._trim()
        hashes, places = self._entries[:, : self._count]
        chosen = _repeated(hashes)
        hashes, ranked = hashes[chosen], self._ranked(places[chosen])
        order = np.lexsort((ranked, hashes))
        hashes, ranked = hashes[order], ranked[order]
        is_first = np.ones(len(hashes), np.bool_)
        is_first[1:] = hashes[1:] != hashes[:-1]
        groups = int(is_first.sum())
        originals = ranked[is_first][np.cumsum(is_first) - 1]
        copies = np.flatnonzero(~is_first)
        named = copies[np.argsort(ranked[copies], kind="stable")][:NAMED]
        names = sorted(self._names)
        pairs = [Copy(_place(names, ranked[at]), _place(names, originals[at])) for at in named]
        return Duplicates(len(copies), groups, self._count, self._is_capped, pairs)

    def arrays(self, number_of: Callable[[Place], int]) -> Arrays:
        """What was counted, in order of place; ``number_of`` gives the number that stands for a file and tensor."""
        self._trim()
        hashes, places = self._entries[:, : self._count]
        order = np.argsort(self._ranked(places), kind="stable")
        for row in (hashes, places):
            row[:] = row[order]
        own = (places >> np.uint64(_INDEX_BITS)).astype(np.uint32)
        is_kept = np.zeros(len(self._names), np.bool_)
        is_kept[own] = True
        numbers = np.zeros(len(self._names), np.int32)
        for (name, key), number in sorted(self._names.items()):
            if is_kept[number]:
                numbers[number] = number_of(Place(name, key, 0, 0))
        return {
            "hashes": hashes,
            "files": numbers[own],
            "index": places.astype(np.uint32),
            "is_capped": np.array([self._is_capped], np.int64),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]], names: Names) -> None:
        """Put into an empty one what ``arrays`` gave; raises ``ValueError`` or ``KeyError`` for what is not such."""
        hashes, files, index = (arrays[name] for name in ("hashes", "files", "index"))
        kinds = [(array.dtype, array.shape) for array in (hashes, files, index)]
        expected = [(np.dtype(kind), (len(hashes),)) for kind in (np.uint64, np.int32, np.uint32)]
        self._names = {name: number for number, name in enumerate(names)}
        if kinds != expected or (len(files) and not 0 <= files.min() <= files.max() < len(self._names) == len(names)):
            raise ValueError(f"hashes {kinds} do not fit {len(names)} names")
        self._take(hashes, (files.astype(np.uint64) << np.uint64(_INDEX_BITS)) | index)
        capped = np.zeros(1, np.int64)
        fill({"is_capped": capped}, arrays)
        self._is_capped = bool(capped[0])


def _hashes(halves: Halves, rows: range) -> Codes:
    start = blake2b(f"{halves.dtype} {halves.dims[1:]}".encode(), digest_size=8)
    views = [halves.view(half)[rows.start : rows.stop] for half in (halves.mean, halves.scale) if half.size]
    hashes: Codes = np.zeros(len(rows), np.uint64)
    for some in _slices(len(rows)):
        digests = []
        for row in range(some.start, some.stop):
            digest = start.copy()
            for view in views:
                digest.update(as_bytes(np.ascontiguousarray(view[row])))
            digests.append(digest.digest())
        hashes[some] = np.frombuffer(b"".join(digests), "<u8")
    return hashes


def _repeated(hashes: Codes) -> NDArray[np.int64]:
    """Where those stand that are there more than once."""
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return np.zeros(0, np.int64)
    found = []
    for rows in _slices(len(hashes)):
        nearest = np.minimum(np.searchsorted(repeated, hashes[rows]), len(repeated) - 1)
        found.append(rows.start + np.flatnonzero(repeated[nearest] == hashes[rows]))
    return np.concatenate(found)


def _renumbered(places: Codes, numbers: Codes) -> Codes:
    """Places whose file and tensor have other numbers."""
    shift, index = np.uint64(_INDEX_BITS), np.uint64((1 << _INDEX_BITS) - 1)
    renumbered: Codes = np.empty_like(places)
    for rows in _slices(len(places)):
        some = places[rows]
        renumbered[rows] = (numbers[(some >> shift).astype(np.int64)] << shift) | (some & index)
    return renumbered


def _slices(count: int) -> Iterator[slice]:
    """So many rows at a time that what is computed of them takes little memory."""
    return (slice(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS))


def _place(names: Names, code: np.uint64) -> Place:
    number, index = divmod(int(code), 1 << _INDEX_BITS)
    return Place(*names[number], index, 0)
