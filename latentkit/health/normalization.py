"""Scale and shift of latents in the forms that other programs take: diffusers' config, a Python literal, a file.

Two forms, of which a config holds one: a factor for all channels, or a mean and a standard deviation for each. All
map raw latents z to those that a model trains on: ``(z − shift_factor) · scaling_factor``, and for each channel
``(z − latents_mean) / latents_std``.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentkit.errors import DataError, RequestError

if TYPE_CHECKING:
    from latentkit.stats.summary import Summary

_LINE = 79


@dataclass(frozen=True, slots=True)
class Factors:
    """One factor and shift for all, and a mean and standard deviation per channel, that give latents ``target_std``."""

    target_std: float
    scaling_factor: float
    shift_factor: float
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]


def check_target_std(target_std: float) -> float:
    """Return it; raise ``RequestError`` unless it is a finite number above 0."""
    if not (math.isfinite(target_std) and target_std > 0):
        raise RequestError(f"--target-std {target_std}: must be a finite number above 0")
    return target_std


def factors_of(summary: "Summary", target_std: float = 1.0) -> Factors:
    """The factors of latents drawn from the posteriors, by the law of total variance.

    ``scaling_factor`` is target_std / sd and ``latents_std`` sd / target_std, so that either map gives latents the
    standard deviation ``target_std``. NaN where an sd is 0 or unknown.
    """
    drawn = [group.drawn for group in summary.per_channel]
    return Factors(
        target_std,
        target_std * summary.overall.drawn.scaling_factor,
        summary.overall.drawn.shift_factor,
        tuple(each.shift_factor for each in drawn),
        tuple(each.sd / target_std if each.sd else math.nan for each in drawn),
    )


def for_all(factors: Factors, digits: int = 6) -> str:
    """``scaling_factor`` and ``shift_factor`` as JSON for a diffusers config, which is a Python dict as well."""
    entries = {"scaling_factor": factors.scaling_factor, "shift_factor": factors.shift_factor}
    return _literal({name: _rounded(value, digits) for name, value in entries.items()})


def for_each(factors: Factors, digits: int = 6) -> str:
    """``latents_mean`` and ``latents_std``, a value per channel, as JSON and Python dict."""
    entries = {"latents_mean": factors.latents_mean, "latents_std": factors.latents_std}
    return _literal({name: [_rounded(value, digits) for value in values] for name, values in entries.items()})


def document(summary: "Summary", factors: Factors) -> str:
    """A normalization file, as ``sample --normalization`` reads it; raises ``DataError`` where there is no such map.

    Numbers are the shortest that read back to the same float64.
    """
    values = (factors.scaling_factor, factors.shift_factor, *factors.latents_mean, *factors.latents_std)
    if not all(map(math.isfinite, values)):
        raise DataError(_why_not(summary, factors))
    entries = {
        "latents_mean": list(factors.latents_mean),
        "latents_std": list(factors.latents_std),
        "scaling_factor": factors.scaling_factor,
        "shift_factor": factors.shift_factor,
        "target_std": factors.target_std,
        "samples": summary.samples,
        "of": "latents" if summary.parameterization == "none" else "latents drawn from their posteriors",
    }
    return json.dumps(entries, indent=1) + "\n"


def _why_not(summary: "Summary", factors: Factors) -> str:
    if summary.samples < 2:
        return "no normalization was saved: it takes two samples or more"
    channels = [str(channel) for channel, std in enumerate(factors.latents_std) if not math.isfinite(std)]
    return (
        f"no normalization was saved: the standard deviation is 0 or not finite in channel {', '.join(channels[:8])}"
        if channels
        else "no normalization was saved: the latents' mean or standard deviation is not finite"
    )


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _literal(entries: Mapping[str, float | list[float]]) -> str:
    """JSON, lists filled into lines of a terminal's width. NaN, which JSON lacks, is null, which Python lacks."""
    lines = ["{"]
    for name, value in entries.items():
        last = "" if name == list(entries)[-1] else ","
        if isinstance(value, float):
            lines.append(f'  "{name}": {_number(value)}{last}')
            continue
        lines.append(f'  "{name}": [')
        line = "   "
        for place, number in enumerate(value):
            text = " " + _number(number) + ("," if place < len(value) - 1 else "")
            if len(line) + len(text) > _LINE:
                lines.append(line)
                line = "   "
            line += text
        lines += [line, f"  ]{last}"]
    return "\n".join([*lines, "}"])


def _number(value: float) -> str:
    return json.dumps(value) if math.isfinite(value) else "null"
