"""A shift and a scale per channel, or one for all: what maps raw latents to those a diffusion model trains on.

Scaling factors, normalization files and the metadata of drawn latents all become this one type:
``(z − shift) · scale``.
"""

import json
import math
import sys
from dataclasses import dataclass

from latentkit.errors import DataError, RequestError


@dataclass(frozen=True, slots=True)
class Affine:
    """``(z − shift) · scale``; one value for all channels, or one for each."""

    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)

    @property
    def is_identity(self) -> bool:
        return set(self.shift) == {0.0} and set(self.scale) == {1.0}

    def then(self, after: "Affine") -> "Affine":
        """This map, and ``after`` applied to what it gives."""
        count = max(len(self.shift), len(self.scale), len(after.shift), len(after.scale))
        columns = zip(
            *(_widened(values, count) for values in (self.shift, self.scale, after.shift, after.scale)), strict=True
        )
        pairs = [(shift + shift2 / scale, scale * scale2) for shift, scale, shift2, scale2 in columns]
        return Affine(tuple(shift for shift, _ in pairs), tuple(scale for _, scale in pairs))

    def of_channels(self, first: int, end: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Shift and scale of some of the channels, as many of each: one for all, or one a channel."""
        count = self.channels()
        some = slice(first, end) if count > 1 else slice(None)
        return _widened(self.shift, count)[some], _widened(self.scale, count)[some]

    def to_json(self) -> str:
        """As the metadata of drawn latents holds it."""
        return json.dumps({"shift": list(self.shift), "scale": list(self.scale)})

    def channels(self) -> int:
        """How many channels it is for; 1 fits any."""
        return max(len(self.shift), len(self.scale))


IDENTITY = Affine()

# Bytes of a normalization file that are read: a device has no end.
_MOST_BYTES = 16 << 20
# What reading numbers out of somebody's JSON may raise.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def from_factors(scaling_factor: float | None, shift_factor: float | None) -> Affine:
    """diffusers' ``scaling_factor`` and ``shift_factor``: ``(z − shift_factor) · scaling_factor``."""
    scale = 1.0 if scaling_factor is None else scaling_factor
    shift = 0.0 if shift_factor is None else shift_factor
    if not (math.isfinite(scale) and scale != 0):
        raise RequestError(f"--scaling-factor must be a finite number other than 0, got {scale}")
    if not math.isfinite(shift):
        raise RequestError(f"--shift-factor must be a finite number, got {shift}")
    return Affine((shift,), (scale,))


def from_json(text: str, where: str) -> Affine:
    """Read what ``to_json`` wrote; ``where`` names its place in an error."""
    try:
        entries = json.loads(text)
        affine = Affine(_numbers(entries["shift"]), _numbers(entries["scale"]))
    except _UNREADABLE as error:
        raise DataError(f"{where}: its affine is not readable: {text[:80]!r}") from error
    lengths = {len(affine.shift), len(affine.scale)} - {1}
    if (
        not all(map(math.isfinite, affine.shift + affine.scale))
        or 0 in affine.scale
        or 0 in lengths
        or len(lengths) > 1
    ):
        raise DataError(f"{where}: its affine is not one that can be undone: {text[:80]!r}")
    return affine


def from_normalization(path: str) -> Affine:
    """A normalization file: JSON with ``latents_mean`` and ``latents_std``, a value per channel (diffusers' names), or
    the document of ``stats``, which has them under ``normalization``.

    The map is ``(z − latents_mean) / latents_std``.
    """
    try:
        with open(path, "rb") as file:
            entries = json.loads(file.read(_MOST_BYTES))
        entries = entries.get("normalization", entries)
        mean, std = _numbers(entries["latents_mean"]), _numbers(entries["latents_std"])
    except _UNREADABLE as error:
        raise RequestError(
            f'{path}: not a normalization file, as stats --save-normalization writes: it needs "latents_mean" and '
            f'"latents_std", a number per channel'
        ) from error
    return from_statistics(mean, std, path)


def from_statistics(mean: tuple[float, ...], std: tuple[float, ...], path: str) -> Affine:
    """``(z − mean) / std``, a value per channel; raises ``RequestError``, which names their ``path``."""
    least = 1 / sys.float_info.max
    if not mean or len(mean) != len(std) or not all(map(math.isfinite, mean + std)) or not min(std) > least:
        raise RequestError(
            f"{path}: latents_mean and latents_std need as many finite numbers each, and every std above 0"
        )
    return Affine(mean, tuple(1 / value for value in std))


def _numbers(entries: object) -> tuple[float, ...]:
    if not isinstance(entries, list):
        raise TypeError("not a list")
    return tuple(map(float, entries))


def _widened(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    return values * count if len(values) == 1 else values
