"""Words that the terminal and the report share, for parts of the document of ``stats``."""

from typing import Any

from latentkit.text import count_of


def clamp_rows(group: dict[str, Any]) -> dict[str, int]:
    """What is at or beyond a bound of the clamp, or not finite, in a group with log-variances; zeros are left out."""
    bounds, spread, mean = group["clamp"], group["logvar"], group["mean"]
    rows = {
        f"below {bounds['low']:g}, clamped": bounds["below"],
        f"exactly at {bounds['low']:g}": bounds["at_low"],
        f"exactly at {bounds['high']:g}": bounds["at_high"],
        f"above {bounds['high']:g}, clamped": bounds["above"],
        "-inf (among those below)": spread["minus_inf_count"],
        "+inf (among those above)": spread["plus_inf_count"],
        "NaN": spread["nan_count"],
        "mean is NaN": mean["nan_count"],
        "mean is infinite": mean["minus_inf_count"] + mean["plus_inf_count"],
    }
    return {name: count for name, count in rows.items() if count}


def left_out(extras: dict[str, Any]) -> list[str]:
    """What the figures of ``--with`` do not cover, a sentence each."""
    sentences = []
    asked = ", ".join(name for name in ("correlation", "shape", "spectrum") if extras[name])
    if asked and (count := extras["nonfinite_samples"]):
        sentences.append(f"{count_of(count, 'sample')} with a value that is not finite: left out of {asked}")
    if count := extras["large_samples"]:
        most = "over 5 million elements, or 650,000 in a channel"
        sentences.append(f"{count_of(count, 'sample')} too large to be held ({most}): left out of what --with gives")
    if extras["spectrum"] and (count := extras["spectrum"]["samples_without_axes"]):
        sentences.append(
            f"{count_of(count, 'sample')} without spatial axes (tokens, vectors): left out of the spectrum; if the "
            f"tokens follow one another in time, call their axis t, as in --layout bct"
        )
    if extras["duplicates"] and extras["duplicates"]["is_capped"]:
        sentences.append(
            f"copies are looked for among the first {extras['duplicates']['samples_hashed']:,} samples, by file, "
            f"tensor and index"
        )
    return sentences
