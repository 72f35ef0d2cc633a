"""The report in a real browser: nothing overflows, is cut or complains, light and dark, on screen and on paper.

Needs Chromium or Chrome: one of the usual names, or the one that LATENTKIT_CHROMIUM names; skipped without.
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SAMPLE_DATA, Cli, moments_of
from safetensors.torch import load_file, save_file

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("LATENTKIT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: install it, or set LATENTKIT_CHROMIUM")

VIEWS = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]

# The page runs no script, so it is looked at from the page around it.
AROUND = """<!DOCTYPE html><body>%s<pre id="seen"></pre><script>
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
  const cut = [];
  for (const svg of page.querySelectorAll("svg")) {
    const box = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const inner = text.getBoundingClientRect();
      if (inner.left < box.left - 1 || inner.right > box.right + 1 || inner.top < box.top - 1
          || inner.bottom > box.bottom + 1) cut.push(text.textContent);
    }
  }
  return {
    width: root.clientWidth, scroll_width: root.scrollWidth, cut: cut,
    paper: view.getComputedStyle(page.body).backgroundColor,
    bar: view.getComputedStyle(page.querySelector("svg path[style*=accent]")).fill,
    headings: [...page.querySelectorAll("h2")].map(h => h.textContent),
    pictures: [...page.querySelectorAll("svg")].filter(svg => svg.getBoundingClientRect().height > 60).length,
  };
}
window.onload = () => {
  const seen = [...document.querySelectorAll("iframe")].map(look);
  document.getElementById("seen").textContent = JSON.stringify(seen);
};
</script>"""


def browse(folder: Path, page: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Chromium without a window; its console goes to standard error."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def complaints(process: "subprocess.CompletedProcess[str]") -> list[str]:
    return [line for line in process.stderr.splitlines() if ":CONSOLE" in line]


def look(folder: Path, page: Path) -> list[dict[str, Any]]:
    """What each view of the page measures."""
    source = html.escape(page.read_text(encoding="utf-8"))
    frames = [
        f'<iframe width="{width}" height="900" frameborder="0" style="color-scheme: {scheme}" srcdoc="{source}">'
        "</iframe>"
        for width, scheme in VIEWS
    ]
    around = folder / "around.html"
    around.write_text(AROUND % "".join(frames), encoding="utf-8")
    process = browse(folder, around, "--dump-dom", "--window-size=1400,1000")
    assert complaints(process) == []
    found = re.search('<pre id="seen">(.*?)</pre>', process.stdout)
    assert found is not None
    seen: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    return seen


@pytest.mark.parametrize("channels", [4, 16, 128])
def test_nothing_overflows_or_is_cut_at_any_width_and_in_any_light(cli: Cli, tmp_path: Path, channels: int) -> None:
    path = SAMPLE_DATA / "synthetic-clamp.safetensors"
    if channels > 4:
        path = tmp_path / "moments.safetensors"
        moments = moments_of(40, channels, 8, 8)
        moments[:3] *= 4
        moments[:, 1] *= -1e3
        moments[5, channels + 3] = torch.linspace(-40, 30, 64).reshape(8, 8)
        save_file({"moments": moments}, path)
    assert cli("report", path, "-o", "report.html").status == 0
    for (width, scheme), seen in zip(VIEWS, look(tmp_path, tmp_path / "report.html"), strict=True):
        assert (seen["width"], seen["scroll_width"]) == (width, width)
        assert seen["cut"] == []
        assert seen["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 22, 26)"}[scheme]
        assert seen["bar"] == {"light": "rgb(43, 95, 196)", "dark": "rgb(126, 166, 244)"}[scheme]
        assert seen["headings"][0] == "Findings"
        assert seen["pictures"] >= 7


def test_the_page_of_drawn_latents_fits_too(cli: Cli, tmp_path: Path) -> None:
    latents = 100 * load_file(SAMPLE_DATA / "latents.safetensors")["latents"]
    latents[7] *= 1000
    latents[8] = 0
    save_file({"latents": latents}, tmp_path / "latents.safetensors")
    assert (
        cli("report", tmp_path / "latents.safetensors", "--parameterization", "none", "-o", "report.html").status == 0
    )
    for (width, _), seen in zip(VIEWS, look(tmp_path, tmp_path / "report.html"), strict=True):
        assert (seen["scroll_width"], seen["cut"]) == (width, [])
        assert "Spread" in seen["headings"] and seen["pictures"] == 5


def test_two_encoders_in_one_picture_fit_too(cli: Cli, tmp_path: Path) -> None:
    save_file({"moments": 30 * moments_of(600, 4, 4, 4)}, tmp_path / "wide.safetensors")
    against = SAMPLE_DATA / "healthy-f32.safetensors"
    assert cli("report", tmp_path / "wide.safetensors", "--against", against, "-o", "report.html").status == 0
    for (width, _), seen in zip(VIEWS, look(tmp_path, tmp_path / "report.html"), strict=True):
        assert (seen["scroll_width"], seen["cut"]) == (width, [])


def test_the_page_prints_on_a4_and_the_console_stays_silent(cli: Cli, tmp_path: Path) -> None:
    cli("report", SAMPLE_DATA / "collapsed.safetensors", "-o", "report.html")
    process = browse(tmp_path, tmp_path / "report.html", f"--print-to-pdf={tmp_path / 'report.pdf'}")
    assert complaints(process) == []
    printed = (tmp_path / "report.pdf").read_bytes()
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", printed)
    sizes = {(round(float(width)), round(float(height))) for width, height in boxes}
    assert sizes == {(595, 842)}  # points
    assert 3 <= len(boxes) <= 6


def test_the_browser_test_sees_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<h2>Findings</h2><div style='width: 600px'>.</div><svg width=50 height=100><path style='fill: accent'/>"
        "<text x=20 y=50>longer than its picture</text></svg>"
    )
    narrow, *_ = look(tmp_path, page)
    assert (narrow["width"], narrow["scroll_width"] > 600) == (390, True)
    assert narrow["cut"] == ["longer than its picture"]
    (tmp_path / "page.html").write_text("<script src='nosuch.js'></script><script>console.error('oh')</script>")
    assert "oh" in " ".join(complaints(browse(tmp_path, page, "--dump-dom")))
