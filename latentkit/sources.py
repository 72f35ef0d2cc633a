"""What Python callers hand over, paths or arrays in memory, as posteriors that blocks are planned from."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

from latentkit.errors import DataError, RequestError
from latentkit.failures import Failures
from latentkit.posterior.parameterization import DEFAULT_CLAMP, Clamp
from latentkit.read.blocks import Halves, plan_blocks, read_block, whole_of
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Posterior, Span, choose
from latentkit.read.columns import check_columns, read_columns
from latentkit.read.memory import in_memory, is_tensor
from latentkit.read.plan import Found, find_posteriors
from latentkit.read.samples import SampleChoice, choose_samples
from latentkit.read.selection import selection_of
from latentkit.text import count_of

if TYPE_CHECKING:
    from latentkit.posterior.distribution import DiagonalGaussianDistribution

#: What posteriors are read from: a path, folder or glob, or several; an array or tensor of moments, a pair of mean and
#: scale, or a dict of them by their keys; what ``open`` gave, or one of its references.
Source = Any


class Reading(TypedDict, total=False):
    """How a source is read, as the options of the command line say it; see ``open``."""

    key: str | Sequence[str]
    mean_key: str | None
    logvar_key: str | None
    layout: str | None
    parameterization: str | None
    preset: str | None
    limit: int | None
    every: int
    indices: str | None
    exclude: str | None
    relative_to: str | None
    stream: str | None


class Moments(NamedTuple):
    """Samples ``first`` on of a reference, as they are stored: arrays (samples, ...) of float32, or float64.

    ``scale`` is before the clamp, and empty for latents already drawn.
    """

    reference: Posterior
    first: int
    mean: NDArray[Any]
    scale: NDArray[Any]


class Posteriors(Sequence[Posterior]):
    """References to posteriors, in the order they are read.

    Each has ``file``, ``key``, ``dtype``, ``shape`` (of its means), ``layout``, ``parameterization`` and ``samples``.
    """

    def __init__(self, found: Found, device: Any = None) -> None:
        self.found = found
        #: Where tensors that were handed over are; None for arrays and files.
        self.device = device

    def __len__(self) -> int:
        return len(self.found.posteriors)

    @overload
    def __getitem__(self, index: int) -> Posterior: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Posterior]: ...
    def __getitem__(self, index: int | slice) -> Posterior | Sequence[Posterior]:
        return self.found.posteriors[index]

    def __repr__(self) -> str:
        what = count_of(self.samples, "sample") + " of " + count_of(len(self), "tensor")
        return f"<latentkit.Posteriors: {what}; {'; '.join(self.found.readings[:4])}>"

    @property
    def samples(self) -> int:
        """Of all references together, as far as they were chosen."""
        return self.found.samples

    def blocks(self, batch_size: int | None = None) -> Iterator[Moments]:
        """The stored numbers, up to ``batch_size`` whole samples of one reference at a time.

        Raises ``DataError`` for a file that changed.
        """
        for span, halves in self._halves(batch_size):
            mean, scale = (_numbers(half, halves, span.posterior) for half in (halves.mean, halves.scale))
            yield Moments(span.posterior, span.first, mean, scale)

    def distributions(
        self, batch_size: int | None = None, *, clamp: Clamp = DEFAULT_CLAMP
    ) -> "Iterator[DiagonalGaussianDistribution]":
        """The same samples as torch's distributions, of the dtype that is stored."""
        import torch

        from latentkit.cuda import DTYPES
        from latentkit.posterior.distribution import DiagonalGaussianDistribution

        check_moments(self.found)
        for span, halves in self._halves(batch_size):
            bits = np.concatenate([halves.view(halves.mean), halves.view(halves.scale)], axis=2)
            axes = span.posterior.axes
            parameters = torch.from_numpy(bits).view(DTYPES[halves.dtype])
            yield DiagonalGaussianDistribution(
                parameters.reshape(span.count, *axes.outer, 2 * axes.channels, *axes.inner).to(self.device),
                layout="b" + span.posterior.layout.lstrip("b"),
                parameterization=span.posterior.parameterization,
                clamp=clamp,
            )

    def columns(self, *keys: str) -> dict[str, list[Any]]:
        """A row per sample, by column: file, tensor, index, and tensors of one value per sample, such as labels."""
        names = ["file", "tensor", "index"]
        check_columns(self.found.posteriors, keys, names, Failures())
        columns: dict[str, list[Any]] = {name: [] for name in [*names, *keys]}
        for span in self.found.spans:
            posterior = span.posterior
            rows = {
                "file": [posterior.file.path] * span.count,
                "tensor": [posterior.key] * span.count,
                "index": range(span.first, span.first + span.count),
                **read_columns(posterior, keys, span.first, span.count),
            }
            for name, values in rows.items():
                columns[name] += values
        return columns

    def _halves(self, batch_size: int | None) -> Iterator[tuple[Span, Halves]]:
        check_counts(batch_size=batch_size)
        buffers = Buffers()
        for block in plan_blocks(self.found.spans, batch_size, apart=True):
            if block.last:
                yield block.spans[0], read_block(whole_of(block), buffers)


def _numbers(half: NDArray[Any], halves: Halves, posterior: Posterior) -> NDArray[Any]:
    """One of the halves in the shape of the means, in memory of its own."""
    from latentkit.compiled.tables import WIDE
    from latentkit.sample.lookup import means_of

    stored = halves.view(half) if half.size else half
    numbers = stored.copy() if halves.dtype in WIDE else means_of(halves.dtype)[stored]
    axes = posterior.axes
    return numbers.reshape(-1, *axes.outer, axes.channels, *axes.inner)


def open(
    source: Source,
    *,
    key: str | Sequence[str] = (),
    mean_key: str | None = None,
    logvar_key: str | None = None,
    layout: str | None = None,
    parameterization: str | None = None,
    preset: str | None = None,
    limit: int | None = None,
    every: int = 1,
    indices: str | None = None,
    exclude: str | None = None,
    relative_to: str | None = None,
    stream: str | None = None,
) -> Posteriors:
    """The posteriors of files, or of arrays in memory; of files only headers are read.

    Args:
        source: a path, folder, glob, index.json or ``@list.txt`` as on the command line, or a list of them; an array
            or tensor of moments; a pair of mean and log-variance; a dict of tensors by their keys.
        key, mean_key, logvar_key, layout, parameterization, preset: as the options of the command line, and so are
        limit, every, indices, exclude: which samples.
        relative_to: a folder that files are named from, for their noise.
        stream: what the noise of arrays in memory goes by, in place of a file's name; by default ``memory``.

    Arrays are NumPy's or torch's, of 8 to 64 bits, on any device; what is not in the host's memory is copied there.

    Raises ``LatentkitError``: one sentence on what is wrong, where, and what to do. It names options as the command
    line does: ``--layout`` is ``layout``.

    >>> posteriors = open("sample_data/shards")
    >>> len(posteriors), posteriors.samples
    (4, 1285)
    >>> posteriors[0].dtype, posteriors[0].shape
    ('F16', (322, 4, 4, 4))
    """
    keys = (key,) if isinstance(key, str) else tuple(key)
    selection = selection_of(keys, mean_key, logvar_key, layout, parameterization, preset, latents=True)
    check_counts(limit=limit, every=every)
    choice = SampleChoice(limit, every, indices, exclude)
    if is_path(source) or (isinstance(source, (list, tuple)) and source and all(map(is_path, source))):
        if stream is not None:
            raise RequestError("stream names arrays in memory; files go by their names, see relative_to")
        paths = [source] if is_path(source) else source
        return Posteriors(find_posteriors(map(os.fsdecode, paths), selection, choice, relative_to=relative_to))
    arrays = source
    if isinstance(source, tuple) and len(source) == 2:
        arrays = dict(zip(("mean", "std" if parameterization == "std" else "logvar"), source, strict=True))
    elif not isinstance(source, Mapping):
        arrays = {"moments": source}
    posteriors = choose(*in_memory(arrays, "memory" if stream is None else stream), selection)
    filled = [posterior for posterior in posteriors if posterior.samples]
    if not filled:
        raise DataError(f"{posteriors[0].label} has no samples")
    spans = choose_samples(filled, choice)
    used = tuple(dict.fromkeys(span.posterior for span in spans))
    first = next(iter(arrays.values()))
    return Posteriors(Found(used, spans, inputs=tuple(filled)), first.device if is_tensor(first) else None)


def opened(source: Source, reading: Reading) -> Posteriors:
    """``open``, for what may be open already, or one of its references."""
    if isinstance(source, Posterior):
        source = Posteriors(Found((source,), (Span(source, 0, source.samples),)))
    if not isinstance(source, Posteriors):
        return open(source, **reading)
    if reading:
        raise RequestError(f"{', '.join(reading)}: goes to open(), as the source is open already")
    return source


def check_counts(**counts: int | None) -> None:
    """Raise ``RequestError`` for one that is below 1, ``TypeError`` for one that is no whole number."""
    for name, count in counts.items():
        if count is not None and index(count) < 1:
            raise RequestError(f"{name} {count}: must be 1 or more")


def check_moments(found: Found) -> None:
    """Raise ``RequestError`` for latents already drawn; warn where log-variances look like something else."""
    for posterior in found.posteriors:
        if posterior.parameterization == "none":
            raise RequestError(
                f"{posterior.label} holds latents already drawn, which have no posterior; stats reads them"
            )

    from latentkit.measures.misread import doubtful_logvars

    if doubt := doubtful_logvars(found.spans):
        warnings.warn(doubt, stacklevel=3)


def is_path(source: object) -> bool:
    """Whether it stands for files."""
    return isinstance(source, (str, bytes, os.PathLike))
