"""A picture drawn with matplotlib as inline SVG that takes the page's font and colours, light or dark."""

import gc
import io
import re
import zlib
from collections.abc import Callable
from html import escape
from typing import Any

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that stand for those of the page.
TEXT, MUTED, LINE, ACCENT, WARM = "#010101", "#020202", "#030303", "#040404", "#050505"
_OF_PAGE = {
    TEXT: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    WARM: "var(--warm)",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    # What is cut by a frame is named by a hash, which would otherwise be random.
    "svg.hashsalt": "latentkit",
    # Cells of a heat map are strokes: none may be dropped for being small.
    "path.simplify": False,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": TEXT,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.dpi": 72,
}

#: Left, right, top, bottom, in pixels.
Margins = tuple[float, float, float, float]


def drawn(width: float, height: float, margins: Margins, alt: str, paint: Callable[[Axes], None]) -> str:
    """A picture of so many CSS pixels whose axes ``paint`` fills; ``alt`` says what there is to see, in figures.

    Equal input gives equal text: there is no date in it.
    """
    left, right, top, bottom = margins
    with rc_context():
        # A style of the user's own would show, and could ask for LaTeX.
        rcdefaults()
        rcParams.update(_STYLE)
        figure = Figure(figsize=(width / 72, height / 72))
        box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        axes = figure.add_axes(box)
        axes.patch.set_visible(False)
        figure.patch.set_visible(False)
        paint(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    # A figure is a cycle of megabytes.
    del figure, axes
    gc.collect()
    return _inline(out.getvalue(), width, height, alt)


def _inline(text: str, width: float, height: float, alt: str) -> str:
    inside = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    inside = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", inside, flags=re.DOTALL)
    # Only frames are referred to by their names, which are hashes of what they are: the same in two pictures.
    names = set(re.findall(r"#([\w-]+)[)\"]", inside))
    inside = re.sub(r' id="([\w-]+)"', lambda match: match[0] if match[1] in names else "", inside)
    prefix = f"{_checksum(alt + inside)}-"
    inside = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}", inside).replace("xlink:href", "href")
    inside = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", inside)
    inside = re.sub(r"font-family: [^;\"]*;? ?", "", inside)
    # A hundredth of a pixel is fine enough; what is written in the picture stays as it is.
    inside = re.sub("<[^>]*>", lambda tag: re.sub(r"-?\d+\.\d{3,}", _rounded, tag[0]), inside)
    inside = re.sub("|".join(_OF_PAGE), lambda match: _OF_PAGE[match[0]], inside)
    inside = re.sub(r"\s*\n\s*", "\n", inside).replace("<defs></defs>", "").replace("<defs>\n</defs>\n", "")
    return (
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}">{inside}</svg>'
    )


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _checksum(text: str) -> str:
    return f"p{zlib.crc32(text.encode()):08x}"
