"""The page: sections one after the other, with their style, in one file that fetches nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from latentkit.health.wording import left_out
from latentkit.report import extra_sections, sections
from latentkit.report.kl_section import Histograms, divergence, spread
from latentkit.report.logvar_section import clamp
from latentkit.report.markup import section, text
from latentkit.text import count_of

_LISTED = 40


@dataclass(frozen=True, slots=True)
class Made:
    """How a report came about: its command line, what was read, with which versions of what, and beside what."""

    command: str
    files: Sequence[str]
    versions: dict[str, str]
    against: Sequence[str] = ()


def page(document: dict[str, Any], histograms: Histograms, made: Made) -> str:
    """A report as HTML.

    Args:
        document: that of ``stats``, as JSON has it: null for what is not finite.
        histograms: the KL, or of latents already drawn the mean square, of the samples in bins, and of those that
            they are set beside; None: no picture.
        made: told at the end.

    Equal arguments give equal text, on equal versions of matplotlib: there is no date in it.
    """
    drawn = document["parameterization"] == "none"
    title = "Drawn latents" if drawn else "Encoder health"
    facts = [count_of(document["samples"], "sample"), count_of(document["channels"], "channel"), *document["read"]]
    body = "\n".join(
        (
            sections.findings(document),
            sections.comparison(document),
            sections.overview(document),
            spread(document, histograms) if drawn else divergence(document, histograms),
            clamp(document),
            sections.channel_map(document),
            extra_sections.correlation(document),
            extra_sections.spectrum(document),
            extra_sections.duplicates(document),
            sections.channels(document),
            sections.hazards(document),
            sections.normalization(document),
            _made(made, document),
        )
    )
    contents = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', body)
    links = " · ".join(f'<a href="#{name}">{heading}</a>' for name, heading in contents)
    style = files("latentkit.report").joinpath("page.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="latentkit {text(made.versions["latentkit"])}">
<title>{text(title)}: {text(_name(made.files))}</title>
<style>
{style}</style>
</head>
<body>
<header>
<p class="kind">latentkit report</p>
<h1>{text(title)}</h1>
<p class="facts">{text(_name(made.files))}<br>{" · ".join(map(text, facts))}</p>
{_beside(made, document)}</header>
<nav aria-label="Contents">{links}</nav>
<main>
{body}
</main>
</body>
</html>
"""


def _name(names: Sequence[str]) -> str:
    """What was read, in short."""
    if not names:
        return "–"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"


def _beside(made: Made, document: dict[str, Any]) -> str:
    if not document["against"]:
        return ""
    samples = count_of(document["against"]["summary"]["samples"], "sample")
    return f'<p class="facts">Beside the other encoder: {text(_name(made.against))}<br>{samples}</p>\n'


def _made(made: Made, document: dict[str, Any]) -> str:
    low, high = document["clamp"]
    clamp = [("Clamp", f"[{low:g}, {high:g}]".replace("-", "−"))] if document["overall"]["logvar"] else []
    rows = [
        ("Command", f"<code>{text(made.command)}</code>"),
        ("Read as", "<br>".join(map(text, document["read"]))),
        *clamp,
        ("Quantiles", _quantiles(document)),
        *(("Not covered", text(words)) for words in left_out(document["with"])),
        ("Versions", ", ".join(f"{text(name)} {text(version)}" for name, version in made.versions.items())),
        ("Files", _listed(made.files)),
        *([("The other's files", _listed(made.against))] if made.against else []),
    ]
    shown = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return section("How this was made", f'<dl class="made">{shown}</dl>')


def _listed(names: Sequence[str]) -> str:
    listed = "".join(f"<li>{text(name)}</li>" for name in names[:_LISTED])
    more = len(names) - _LISTED
    return f"<ul>{listed}" + (f"<li>and {more:,} more</li>" if more > 0 else "") + "</ul>"


def _quantiles(document: dict[str, Any]) -> str:
    if document["exact_quantiles"]:
        return "exact"
    error = 100 * document["quantile_error"]
    return f"of what is stored, rounded towards zero by at most {error:.2g} %; everything else is exact all the same"
