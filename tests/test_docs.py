"""The documentation says what is there, and its examples work."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_first_look
import pytest
from conftest import Cli

from latentkit.cli import convert, guide, help, info, kl, main, nll, report, sample, stats
from latentkit.read.presets import PRESETS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "sample_data" / "README.md", *sorted((ROOT / "latentkit" / "guide").glob("*.md"))]
COMMANDS = [info, stats, report, kl, nll, sample, convert, guide, help]


def examples() -> list[str]:
    """Commands that stand alone in the help: pipes are for shells."""
    epilogs = "\n".join(command.EXAMPLES for command in COMMANDS)
    return [line for line in epilogs.splitlines() if line.startswith("latentkit ") and not re.search("[|&>] ", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_links_every_page_of_the_guide() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[2:] if f"latentkit/guide/{page.name}" not in readme] == []


@pytest.mark.parametrize("page", PAGES[2:], ids=lambda page: page.stem)
def test_a_terminal_shows_lines_of_code_whole(
    page: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = page.read_text(encoding="utf-8")
    guide._show(text)
    shown = {line.rstrip() for line in capfd.readouterr().out.splitlines()}
    code = [line for block in re.findall(r"(?ms)^```\w*\n(.*?)^```$", text) for line in block.splitlines()]
    assert [line for line in code if line and line not in shown] == []


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("page", PAGES[2:], ids=lambda page: page.stem)
def test_a_terminal_breaks_no_word_of_a_table_and_cuts_none(
    page: Path, columns: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tables = "\n\n".join(re.findall(r"(?m)(?:^\|.*\n)+", page.read_text(encoding="utf-8")))
    words = []
    for width in (columns, 1000):
        monkeypatch.setenv("COLUMNS", str(width))
        guide._show(tables)
        words.append(set(re.sub("[─:]", " ", capfd.readouterr().out).split()))
    assert {word for word in words[1] - words[0] if len(word) < 36} == set()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__.rpartition(".")[2])
def test_the_readme_names_every_command(command: object) -> None:
    name = command.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    assert f"`latentkit {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__.rpartition(".")[2])
def test_every_help_begins_with_three_examples(command: object) -> None:
    assert len(re.findall("^latentkit ", command.EXAMPLES, re.MULTILINE)) == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("example", examples())
def test_every_example_of_the_help_works(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", shlex.split(example))
    with pytest.raises(SystemExit) as status:
        main.main()
    assert status.value.code == 0, capfd.readouterr().err


def errors() -> list[Any]:
    """The guide's errors: the status that the heading gives, the lines typed, and the line printed."""
    found, status = [], 0
    for block in re.split(r"(?m)^## |^```console\n", (ROOT / "latentkit/guide/errors.md").read_text(encoding="utf-8")):
        if re.match(r"[0-9]: ", block):
            status = int(block[0])
        elif block.startswith("$ "):
            *typed, printed = block.partition("\n```")[0].split("\n")
            found.append(pytest.param(status, [line.removeprefix("$ ") for line in typed], printed, id=typed[-1]))
    return found


@pytest.mark.parametrize(("status", "typed", "printed"), errors())
def test_the_guide_shows_errors_as_they_are(
    cli: Cli, tmp_path: Path, status: int, typed: list[str], printed: str
) -> None:
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data")
    *before, command = typed
    for line in before:
        subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    if "/dev/full" in command and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    outcome = cli(*shlex.split(command)[1:])
    assert (outcome.status, outcome.complaint) == (status, printed)


def test_the_guide_shows_ten_errors() -> None:
    assert len(errors()) >= 10


def test_the_guide_has_every_preset_as_it_is() -> None:
    page = (ROOT / "latentkit" / "guide" / "caches.md").read_text(encoding="utf-8")
    for preset in PRESETS:
        layouts = ", ".join(f"`{layout}`" for layout in preset.layouts)
        row = (
            f"| `{preset.name}` | {preset.tool} | {preset.evidence} | {layouts} | `{preset.parameterization}` | "
            f"{preset.applied} | {preset.labels} |"
        )
        assert row in page


def test_the_man_page_of_the_wheel_is_that_of_today(cli: Cli) -> None:
    """``tests/make_first_look.py`` makes it anew."""
    assert cli("help", "--man").out == make_first_look.MAN_PAGE.read_text(encoding="utf-8")


def test_the_readme_shows_what_commands_print_today(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data")
    # Its text alone: versions of rich draw the same a little differently.
    pictures = make_first_look.picture(tmp_path), make_first_look.PICTURE.read_text(encoding="utf-8")
    made, kept = ([re.sub(r"\s+", " ", text) for text in re.findall(r">([^<]+)</text>", svg)] for svg in pictures)
    assert made == kept
    assert make_first_look.readme(tmp_path) == (ROOT / "README.md").read_text(encoding="utf-8")
