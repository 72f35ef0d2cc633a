"""The terminal's view of ``stats --by``: a row per label."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latentkit.cli.screen import aligned, fitting_table
from latentkit.text import count_of, percent

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from latentkit.cli.screen import Titled
    from latentkit.stats.by_label import Groups, LabelGroup

# Headings in the order in which they are left out where there is no room: those of KL, or of z².
_LEFT_OUT = (
    "1 / sd", "KL max", "z² max", "KL min", "z² min", "not finite", "KL sd", "z² sd", "clamped", "active", "mean",
    "per element", "sd", "collapsed",
)  # fmt: skip


def labels_table(console: "Console", groups: "Groups", room: int) -> "Titled":
    """All labels, or where there is no room for them the half with the least and that with the most per sample."""
    shown, which = groups.labels, None
    if len(shown) > room:
        either_end = max(1, room // 2)
        ranked = sorted(range(len(shown)), key=lambda place: _rank(groups.labels[place]))
        chosen = sorted({*ranked[:either_end], *ranked[-either_end:]})
        shown = [groups.labels[place] for place in chosen]
        which = f"{len(shown)} of {len(groups.labels):,} labels, those with least and most; --full shows all"
    has_scale = shown[0].kl_element is not None
    columns = _columns(shown, "KL" if has_scale else "z²", has_scale=has_scale)
    what = "KL per sample [nats]" if has_scale else "mean square z² per sample"
    title = f"By {groups.key}: {count_of(len(groups.labels), 'label')}; {what}, latents"
    return title, fitting_table(console, columns, _LEFT_OUT), which


def _rank(group: "LabelGroup") -> float:
    return math.inf if math.isnan(group.values.mean) else group.values.mean


def _columns(groups: "Sequence[LabelGroup]", what: str, *, has_scale: bool) -> "dict[str, Sequence[RenderableType]]":
    columns: dict[str, Sequence[RenderableType]] = {
        "label": [str(group.values.label) for group in groups],
        "samples": [f"{group.values.count + group.values.nonfinite:,}" for group in groups],
        what: aligned(group.values.mean for group in groups),
        f"{what} sd": aligned(group.values.sd for group in groups),
        f"{what} min": aligned(group.values.min for group in groups),
        f"{what} max": aligned(group.values.max for group in groups),
    }
    if has_scale:
        columns["per element"] = aligned(group.kl_element or 0.0 for group in groups)
    columns["active"] = [str(group.active_channels) for group in groups]
    if has_scale:
        columns["collapsed"] = [str(group.collapsed_channels) for group in groups]
        columns["clamped"] = [percent(group.clamped_fraction or 0) for group in groups]
    if any(group.nonfinite_count for group in groups):
        columns["not finite"] = [f"{group.nonfinite_count:,}" for group in groups]
    columns["mean"] = aligned(group.latents_mean for group in groups)
    columns["sd"] = aligned(group.latents_sd for group in groups)
    columns["1 / sd"] = aligned(group.scaling_factor for group in groups)
    return columns
