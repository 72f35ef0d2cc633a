"""An examination in short, as HTML for a notebook: the findings and a row per channel."""

from latentkit.health.examination import Result
from latentkit.report.markup import table, text, to_open
from latentkit.text import count_of

# Channels shown at once; more are to be opened.
_MOST_OPEN = 16


def in_short(result: Result) -> str:
    """A fragment that needs nothing around it; all names in it are escaped."""
    summary = result.summary
    rows = [*summary.per_channel, summary.overall]
    columns: dict[str, list[str | int | float | None]] = {
        "channel": [*map(str, range(summary.channels)), "all"],
        "mean": [row.mean.mean for row in rows],
        "sd": [row.mean.sd for row in rows],
    }
    if summary.parameterization != "none":
        columns["log-variance"] = [row.logvar.mean if row.logvar else None for row in rows]
        columns["clamped"] = [row.clamp.below + row.clamp.above if row.clamp else None for row in rows]
        columns["KL per sample"] = [row.kl.sample if row.kl else None for row in rows]
        columns["active"] = ["" if row.active is None else "yes" if row.active else "no" for row in rows]
    columns["scaling_factor"] = [row.drawn.scaling_factor for row in rows]
    listed = table(f"{count_of(summary.samples, 'sample')}, by channel", columns, has_total=True)
    if summary.channels > _MOST_OPEN:
        listed = to_open(count_of(summary.channels, "channel"), listed)
    read = "".join(f"<p>{text(reading)}</p>" for reading in result.state.readings[:4])
    findings = "".join(f"<li>{text(f'{each.severity}: {each.sentence}')}</li>" for each in result.findings)
    return f"<p><b>{text(result.verdict)}</b></p>{read}<ul>{findings}</ul>{listed}"
