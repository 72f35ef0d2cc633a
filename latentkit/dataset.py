"""Datasets for training: latents drawn anew from moments each epoch, by the recipe of ``sample``.

Epoch k gives draw k of ``latentkit sample --draws K``, bit for bit, in any order, process and number of workers.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from latentkit.cuda import DTYPES
from latentkit.errors import RequestError
from latentkit.posterior.parameterization import DEFAULT_CLAMP, Clamp
from latentkit.read.blocks import Block, samples_alike, whole_piece
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Span
from latentkit.read.memory import dtype_name
from latentkit.read.plan import refuse_equal_names
from latentkit.sample.drawing import BITS, Latents, draw_block
from latentkit.sample.request import recipe_of
from latentkit.sources import Reading, Source, check_moments, opened

#: Latents, or a tuple of them and the sample's value in each of the columns.
Item = Any


class _Memory(threading.local):
    """Each thread's own: what is drawn is copied out of it."""

    def __init__(self) -> None:
        self.buffers = Buffers()


_memory = _Memory()


class LatentDataset(Dataset[Item]):
    """Latents by the index of their sample, all inputs counted through: a new draw each epoch, see ``set_epoch``.

    Args:
        source, reading: as of ``latentkit.open``.
        columns: keys of tensors that hold one value per sample, such as labels. Items are then tuples.
        seed, mode, temperature, dtype, scaling_factor, shift_factor, normalization, clamp: as of ``latentkit.sample``.

    Workers of a ``DataLoader`` are served whether forked or spawned, and so are distributed samplers. A loader asks
    for a batch at once; ``batch`` gives one without the copy that collating takes. Raises ``LatentkitError``.

    >>> dataset = LatentDataset("sample_data/shards", seed=7, columns=["labels"], scaling_factor=0.5)
    >>> dataset.set_epoch(3)
    >>> latents, label = dataset[100]
    >>> latents.shape, latents.dtype, label
    (torch.Size([4, 4, 4]), torch.float16, 4)
    """

    def __init__(
        self,
        source: Source,
        *,
        columns: str | Sequence[str] = (),
        seed: int = 0,
        mode: bool = False,
        temperature: float = 1.0,
        dtype: Any = None,
        scaling_factor: float | None = None,
        shift_factor: float | None = None,
        normalization: str | os.PathLike[str] | None = None,
        clamp: Clamp = DEFAULT_CLAMP,
        **reading: Unpack[Reading],
    ) -> None:
        posteriors = opened(source, reading)
        check_moments(posteriors.found)
        refuse_equal_names(posteriors)
        self._recipe = recipe_of(
            posteriors,
            seed=seed,
            mode=mode,
            temperature=temperature,
            dtype=None if dtype is None else dtype_name(dtype),
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            normalization=normalization,
            clamp=clamp,
        )
        self._spans = posteriors.found.spans
        columns = [columns] if isinstance(columns, str) else columns
        self._ends = np.cumsum([span.count for span in self._spans])
        values = posteriors.columns(*columns)
        self._columns = [np.array(values[key]) for key in columns]
        # Shared, so that workers that stay from epoch to epoch see it change.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """From now on give this draw, 0 or above; of loaders, from their next iterator on."""
        if epoch < 0:
            raise RequestError(f"epoch {epoch}: must be 0 or above")
        self._epoch[0] = epoch

    @property
    def epoch(self) -> int:
        return int(self._epoch[0])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """What a ``DataLoader`` asks for: the items of a batch."""
        rows = self._rows(indices)
        latents: list[Any] = [None] * len(rows)
        for places, drawn in self._drawn(rows):
            for place, one in zip(places.tolist(), drawn, strict=True):
                latents[place] = one
        if not self._columns:
            return latents
        return list(zip(latents, *(column[rows].tolist() for column in self._columns), strict=True))

    def batch(self, indices: Sequence[int]) -> Item:
        """Latents of samples that are alike in shape, (samples, ...), with a tensor of each column's values.

        For a loader without collating: ``DataLoader(range(len(dataset)), collate_fn=dataset.batch)``.
        """
        rows = self._rows(indices)
        parts = list(self._drawn(rows))
        if len(parts) != 1:
            raise RequestError("a batch needs one sample at least, and all of one shape and dtype")
        latents = parts[0][1]
        return (latents, *(torch.from_numpy(column[rows]) for column in self._columns)) if self._columns else latents

    def _rows(self, indices: Sequence[int]) -> NDArray[np.int64]:
        rows = np.array(indices, np.int64)
        rows[rows < 0] += len(self)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"there are {len(self)} samples; asked for {list(indices)[:8]}")
        return rows

    def _drawn(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Latents of samples that are alike at once, each with the places of its rows; a file is read in order."""
        order = np.argsort(rows, kind="stable")
        numbers = np.searchsorted(self._ends, rows[order], side="right").tolist()
        group: list[Span] = []
        begin = 0
        for row, number in zip(rows[order].tolist(), numbers, strict=True):
            span = self._spans[number]
            sample = Span(span.posterior, span.first + row - int(self._ends[number]) + span.count, 1)
            if group and not samples_alike(group[-1].posterior, sample.posterior):
                yield self._draw(group, order[begin : begin + len(group)])
                begin, group = begin + len(group), []
            group.append(sample)
        if group:
            yield self._draw(group, order[begin:])

    def _draw(self, samples: Sequence[Span], places: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor]:
        posterior = samples[0].posterior
        dtype = self._recipe.dtype_of(posterior)
        shape = posterior.axes.shape[len(posterior.axes.batch) :]
        out = torch.empty((len(samples), *shape), dtype=DTYPES[dtype])
        bits = out.view(len(samples), -1).view(torch.uint8).numpy().view(BITS[dtype])
        # Read in order, and put in the order asked for.
        ranks = np.empty(len(places), np.int64)
        ranks[np.argsort(places)] = np.arange(len(places))

        def take(block: Block, number: int, latents: Latents) -> None:
            del block, number
            bits[ranks] = latents

        block = Block(tuple(samples), whole_piece(posterior.axes), 0, last=True)
        draw_block(block, self._recipe, take, _memory.buffers, (self.epoch,))
        return np.sort(places), out


class LatentIterableDataset(IterableDataset[Item]):
    """The same latents in a stream, read from end to end in chunks, for storage where each seek costs.

    Args:
        source, options: as of ``LatentDataset``.
        shuffle: chunks in an order that the seed and the epoch say, and so the samples of each.
        chunk: so many samples are read at once.
        rank, world_size: which part of how many this process takes; by default those of ``torch.distributed``, or of
            the environment that ``torchrun`` makes.

    Processes, and in each the workers of a ``DataLoader``, share the samples: each comes once, and the numbers that
    they get differ by one at most.
    """

    def __init__(
        self,
        source: Source,
        *,
        shuffle: bool = False,
        chunk: int = 64,
        rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> None:
        self._of = LatentDataset(source, **options)
        self._seed = options.get("seed", 0)
        self._shuffle, self._chunk = shuffle, chunk
        usual = _process()
        self._rank = usual[0] if rank is None else rank
        self._world_size = usual[1] if world_size is None else world_size
        if not 0 <= self._rank < self._world_size:
            raise RequestError(f"rank {self._rank} of {self._world_size} processes: counts from 0")
        if chunk < 1:
            raise RequestError(f"chunk {chunk}: must be 1 or more")

    def set_epoch(self, epoch: int) -> None:
        """See ``LatentDataset.set_epoch``."""
        self._of.set_epoch(epoch)

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        rows = self._order()
        rows = _part(rows, self._rank, self._world_size)
        if worker is not None:
            rows = _part(rows, worker.id, worker.num_workers)
        for first in range(0, len(rows), self._chunk):
            yield from self._of.__getitems__(rows[first : first + self._chunk])  # type: ignore[arg-type]

    def _order(self) -> NDArray[np.int64]:
        """All samples in the order of this epoch, which is the same in every process."""
        rows = np.arange(len(self._of))
        if not self._shuffle:
            return rows
        generator = np.random.default_rng((self._seed, self._of.epoch))
        chunks = np.split(rows, range(self._chunk, len(rows), self._chunk))
        return np.concatenate([generator.permutation(chunks[at]) for at in generator.permutation(len(chunks))])


def _part(rows: NDArray[np.int64], number: int, count: int) -> NDArray[np.int64]:
    return rows[len(rows) * number // count : len(rows) * (number + 1) // count]


def _process() -> tuple[int, int]:
    """The rank of this process and the number of all."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
