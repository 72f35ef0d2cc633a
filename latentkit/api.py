"""What the commands compute, for Python: on paths, and on arrays and tensors in memory.

A value's bits are the same either way. Results are NumPy's; where torch's tensors were handed over they are tensors,
on the device that those are on. Nothing here has a gradient: losses are for ``DiagonalGaussianDistribution``.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from latentkit.device import check_device_name, device_called
from latentkit.errors import RequestError
from latentkit.failures import Failures
from latentkit.health.examination import alike, blank_state, check_fits, figures_of, judged
from latentkit.health.figures import BESIDE, check_asked, check_compared, condition, value_of
from latentkit.health.kept import is_kept, kept
from latentkit.health.normalization import check_target_std
from latentkit.posterior.affine import from_factors
from latentkit.posterior.parameterization import DEFAULT_CLAMP, Clamp, check_clamp
from latentkit.read.choice import Posterior
from latentkit.read.memory import dtype_name, in_memory
from latentkit.read.pairing import affine_of, latents_in, pair_latents, pair_posteriors
from latentkit.read.plan import Found, refuse_equal_names
from latentkit.sample.outputs import check_joinable
from latentkit.sample.request import recipe_of
from latentkit.sources import Posteriors, Reading, Source, check_counts, check_moments, is_path, opened
from latentkit.text import count_of

if TYPE_CHECKING:
    from latentkit.health.examination import Result
    from latentkit.health.findings import Finding
    from latentkit.health.normalization import Factors
    from latentkit.read.labels import Labels
    from latentkit.run import Progressing, Values
    from latentkit.stats.by_label import Groups
    from latentkit.stats.state import State
    from latentkit.stats.summary import Summary

#: NumPy's array, or torch's tensor where such were handed over.
Array = Any


def kl(
    source: Source,
    *,
    against: Source | None = None,
    symmetric: bool = False,
    per_channel: bool = False,
    clamp: Clamp = DEFAULT_CLAMP,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
    **reading: Unpack[Reading],
) -> Array:
    """KL of each sample's posterior in nats, to the standard normal or to ``against``: float64, (samples,).

    ``per_channel``: (samples, channels). ``symmetric``: the sum of both directions. ``reading``: see ``open``.
    Raises ``LatentkitError``.

    >>> kl("sample_data/healthy-f32.safetensors", limit=3).round(2)
    array([123.17, 116.76, 122.75])
    """
    if symmetric and against is None:
        raise RequestError("symmetric needs against: the KL to the standard normal has one direction")
    clamp, device = _checked(clamp, device, batch_size, workers)
    posteriors = opened(source, reading)
    found = posteriors.found
    check_moments(found)
    partners = None
    if against is not None:
        others = opened(against, _beside(against, reading, "limit", "every")).found
        check_moments(others)
        partners = pair_posteriors(found.posteriors, others.posteriors, inputs=found.inputs)

    from latentkit.measures.kl import kl_values

    values = kl_values(
        found.spans,
        clamp,
        partners=partners,
        symmetric=symmetric,
        per_channel=per_channel,
        batch_size=batch_size,
        workers=workers,
        device=device,
    )
    return _like(posteriors, _joined(values, squeeze=not per_channel))


def nll(
    source: Source,
    latents: Any,
    *,
    latents_key: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    clamp: Clamp = DEFAULT_CLAMP,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
    **reading: Unpack[Reading],
) -> Array:
    """NLL of latents under each sample's posterior in nats: float64, (samples,), or (samples, draws).

    ``latents``: a path as of ``nll --latents``, or an array: of the shape of the means, or with an axis of draws in
    front; of several inputs end to end, all of their samples, whichever are chosen. Factors that they were scaled by
    are undone: those of a file's metadata, or said here, or, as ``sample`` uses them, those of the moments' metadata.
    ``reading``: see ``open``. Raises ``LatentkitError``.
    """
    clamp, device = _checked(clamp, device, batch_size, workers)
    posteriors = opened(source, reading)
    found = posteriors.found
    check_moments(found)
    if is_path(latents):
        pairs = pair_latents(found.posteriors, str(latents), latents_key, inputs=found.inputs)
    else:
        _, header = in_memory({"latents": latents})
        pairs = latents_in(found.inputs or found.posteriors, header, "latents")
    given = scaling_factor is not None or shift_factor is not None
    flagged = from_factors(scaling_factor, shift_factor) if given else None
    affines = {posterior: affine_of(posterior, of, flagged) for posterior, of in pairs.items()}

    from latentkit.measures.nll import nll_values

    values = nll_values(found.spans, pairs, affines, clamp, batch_size=batch_size, workers=workers, device=device)
    return _like(posteriors, _joined(values, squeeze=not any(of.drawn_often for of in pairs.values())))


def sample(
    source: Source,
    *,
    seed: int = 0,
    draws: int | None = None,
    mode: bool = False,
    temperature: float = 1.0,
    dtype: Any = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    normalization: str | os.PathLike[str] | None = None,
    clamp: Clamp = DEFAULT_CLAMP,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
    **reading: Unpack[Reading],
) -> Array:
    """Latents, the same as ``latentkit sample`` writes: of the shape of the means, several inputs end to end.

    Args:
        draws: so many, along a new first axis.
        mode: the means, without noise.
        dtype: ``float16``, ``bfloat16``, ``float32``, or with ``mode`` ``float64``, a name or a dtype; by default the
            input's, and float32 for 8-bit and float64. NumPy has no bfloat16: arrays hold its numbers as float32.
        normalization, scaling_factor, shift_factor: as the options of the command line; else as the metadata says.
        reading: see ``open``; of arrays in memory ``stream`` says what their noise goes by.

    Raises ``LatentkitError``.

    >>> latents = sample("sample_data/video.safetensors", seed=7)
    >>> latents.shape, latents.dtype
    ((192, 4, 4, 4, 4), dtype('float32'))
    """
    clamp, device = _checked(clamp, device, batch_size, workers)
    posteriors = opened(source, reading)
    spans = posteriors.found.spans
    check_moments(posteriors.found)
    refuse_equal_names(posteriors)
    for other in posteriors[1:]:
        check_joinable(posteriors[0], other)
    recipe = recipe_of(
        posteriors,
        seed=seed,
        draws=draws,
        mode=mode,
        temperature=temperature,
        dtype=None if dtype is None else dtype_name(dtype),
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        normalization=normalization,
        clamp=clamp,
    )

    from latentkit.sample.arrays import draw_array, numbers_of

    bits = draw_array(spans, recipe, batch_size=batch_size, workers=workers, device=device)
    if posteriors.device is None:
        return numbers_of(bits, recipe.dtype_of(posteriors[0]))
    import torch

    from latentkit.cuda import DTYPES

    # torch has no unsigned 16 and 32 bits everywhere.
    signed = bits.view(bits.dtype.str.replace("u", "i"))
    return torch.from_numpy(signed).view(DTYPES[recipe.dtype_of(posteriors[0])]).to(posteriors.device)


@dataclass(frozen=True, repr=False)
class Stats:
    """All that ``stats`` found.

    ``summary`` has every figure, ``findings`` what they say of the encoder, ``normalization`` the factors of its
    latents; ``to_dict`` gives all as ``latentkit stats --format json`` does. A notebook shows a table.
    """

    result: "Result"

    @property
    def summary(self) -> "Summary":
        return self.result.summary

    @property
    def findings(self) -> "list[Finding]":
        return self.result.findings

    @property
    def normalization(self) -> "Factors":
        return self.result.factors

    @property
    def groups(self) -> "Groups | None":
        """The figures per label, where ``by`` asked for them."""
        return self.result.groups

    def held(self, *conditions: str) -> dict[str, float]:
        """Those of ``conditions``, as ``--fail-if`` takes them, that hold, each with its figure; NaN is undefined.

        Raises ``RequestError`` for what is no condition, or is on a figure that was not asked for.

        >>> stats("sample_data/collapsed.safetensors").held("collapsed_channels > 0", "samples < 2")
        {'collapsed_channels > 0': 3}
        """
        asked = {text: condition(text) for text in conditions}
        check_asked(asked.values(), self.result.state.extra_names)
        if self.result.against is None:
            check_compared(asked.values())
        values = {text: value_of(asked[text].name, self.result, self.result.against) for text in asked}
        return {text: value for text, value in values.items() if asked[text].held(value)}

    @property
    def verdict(self) -> str:
        """One line on the whole."""
        return self.result.verdict

    def to_dict(self) -> dict[str, Any]:
        """The document of plain numbers, texts, lists and dicts; None for what is NaN or infinite."""
        from latentkit.health.document import plain
        from latentkit.write.json_rows import jsonable

        document: dict[str, Any] = jsonable(plain(self.result.outline()))
        return document

    def __repr__(self) -> str:
        summary = self.summary
        return (
            f"<latentkit.Stats of {count_of(summary.samples, 'sample')}, {summary.channels} channels: {self.verdict}>"
        )

    def _repr_html_(self) -> str:
        from latentkit.report.notebook import in_short

        return in_short(self.result)


def stats(
    source: Source,
    *,
    against: Source | None = None,
    extras: Collection[str] = (),
    by: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    target_std: float = 1.0,
    clamp: Clamp = DEFAULT_CLAMP,
    batch_size: int | None = None,
    workers: int | None = None,
    **reading: Unpack[Reading],
) -> Stats:
    """Is the encoder healthy? The figures and findings of ``latentkit stats``, in one pass on the CPU.

    Args:
        against: another encoder's or epoch's outputs, or the path of a JSON that stats wrote, to be set beside these.
        extras: of ``correlation``, ``shape``, ``spectrum``, ``duplicates``: figures that cost time.
        by: a tensor of labels, each of which has figures of its own: ``groups``.
        scaling_factor, shift_factor, target_std: as the options of the command line.
        reading: see ``open``; latents already drawn are read with ``parameterization="none"``.

    Raises ``LatentkitError``.

    >>> health = stats("sample_data/collapsed.safetensors")
    >>> health.summary.collapsed_channels
    3
    >>> health.findings[0].channels
    (0, 2, 3)
    """
    clamp, _ = _checked(clamp, "cpu", batch_size, workers)
    from_factors(scaling_factor, shift_factor)
    check_target_std(target_std)
    found = alike(opened(source, reading).found, Failures())
    check_fits(extras, found)
    factors: Any = {"scaling_factor": scaling_factor, "shift_factor": shift_factor, "target_std": target_std}
    other = beside = None
    path = os.fsdecode(against) if against is not None and is_path(against) else None
    if path is not None and is_kept(path):
        beside = kept(path, clamp, **factors)
    elif against is not None:
        other = alike(opened(against, _beside(against, reading)).found, Failures())
        check_fits(extras, other)

    from latentkit.read.labels import find_labels
    from latentkit.stats.counting import count
    from latentkit.stats.extras import NAMES

    if isinstance(extras, str) or not set(extras) <= set(NAMES):
        raise RequestError(f"extras {extras!r}: a list of {', '.join(NAMES)}")

    labels = None if by is None else find_labels(found, by, Failures())

    def counted(found: Found, extras: Collection[str] = (), labels: "Labels | None" = None) -> "tuple[State, Summary]":
        state = blank_state(found, clamp, extras, labels=labels)
        for _ in count(
            found.spans,
            state.statistics,
            per_sample=state.per_sample,
            extras=state.extras,
            by=state.by,
            batch_size=batch_size,
            workers=workers,
        ):
            pass
        return state, figures_of(state, found.posteriors[0])

    state, summary = counted(found, extras, labels)
    if other is not None:
        beside = judged(*counted(other, set(extras) & set(BESIDE)), **factors).as_other()
    return Stats(judged(state, summary, beside, **factors))


def _checked(clamp: Clamp, device: str, batch_size: int | None, workers: int | None) -> tuple[Clamp, str]:
    check_counts(batch_size=batch_size, workers=workers)
    check_device_name(device)
    try:
        return check_clamp(clamp), device_called(device)
    except ValueError as error:
        raise RequestError(str(error)) from None


def _beside(source: Source, reading: Reading, *left_out: str) -> Reading:
    """How a partner is read: as its source, but for what names samples and files, and what is open already as it is."""
    if isinstance(source, (Posteriors, Posterior)):
        return {}
    left = {"indices", "exclude", "relative_to", "stream", *left_out}
    return {name: value for name, value in reading.items() if name not in left}  # type: ignore[return-value]


def _joined(values: "Progressing", *, squeeze: bool) -> "Values":
    """All samples' values; raises ``RequestError`` where some have more columns than others."""
    parts = [part for (_, part), _ in values]
    if len({part.shape[1] for part in parts}) > 1:
        raise RequestError("the inputs differ in channels or draws, which one array cannot hold; take one at a time")
    joined = np.concatenate(parts)
    return joined[:, 0] if squeeze else joined


def _like(posteriors: Posteriors, values: "Values") -> Array:
    if posteriors.device is None:
        return values
    import torch

    return torch.from_numpy(values).to(posteriors.device)
