"""What people see: tables, histograms and progress on a terminal, and none of it anywhere else."""

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import SAMPLE_DATA, Cli, files_below, moments_of

from latentkit.cli.main import main
from latentkit.text import number

Write = Callable[..., Path]

# Colours and styles; and anything else that moves the cursor or erases.
STYLE = re.compile(r"\x1b\[[0-9;]*m")
ERASE = "\x1b[2K"  # of the line
CONTROL = re.compile(r"\x1b\[[?0-9;]*[a-lA-Ln-zN-Z]|\r(?!\n)")


@dataclass(frozen=True)
class Seen:
    """What stood on the terminal; ``piped`` is what went to standard output where that was a pipe."""

    status: int
    screen: str
    piped: str = ""

    @property
    def text(self) -> str:
        return CONTROL.sub("", STYLE.sub("", self.screen)).replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        """Lines as they stood, those of a progress bar too, which is drawn again in place of itself."""
        return replace(self, screen=self.screen.replace(ERASE, "\n" + ERASE)).text.splitlines()


Terminal = Callable[..., Seen]


def drain(master: int, into: list[bytes]) -> None:
    try:
        while data := os.read(master, 1 << 16):
            into.append(data)
    except OSError:
        pass  # on Linux the last reader of a closed terminal gets EIO


def open_terminal(columns: int) -> tuple[int, int]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    return master, slave


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Run ``latentkit`` in this process with a pseudo-terminal as its standard output and error.

    ``piped=True``: standard error alone is the terminal.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    terminate = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object, columns: int = 80, piped: bool = False) -> Seen:
        master, slave = open_terminal(columns)
        shown: list[bytes] = []
        reader = threading.Thread(target=drain, args=(master, shown))
        reader.start()
        pipe = tmp_path / "stdout.txt"
        saved = os.dup(1), os.dup(2)
        output = os.open(pipe, os.O_RDWR | os.O_CREAT | os.O_TRUNC) if piped else slave
        os.dup2(output, 1)
        os.dup2(slave, 2)
        streams = [io.TextIOWrapper(os.fdopen(os.dup(number), "wb"), write_through=True) for number in (1, 2)]
        try:
            with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit:
                patch.setattr(sys, "argv", ["latentkit", *map(str, arguments)])
                patch.setattr(sys, "stdout", streams[0])
                patch.setattr(sys, "stderr", streams[1])
                main()
        finally:
            for stream in streams:
                stream.close()
            for number, place in zip(saved, (1, 2), strict=True):
                os.dup2(number, place)
                os.close(number)
            os.close(slave)
            if piped:
                os.close(output)
            reader.join()
            os.close(master)
        return Seen(int(str(exit.value.code)), b"".join(shown).decode(), pipe.read_text() if piped else "")

    yield run
    signal.signal(signal.SIGTERM, terminate)


COMMANDS = {
    "kl": ("kl", SAMPLE_DATA / "healthy-f16.safetensors", "--columns", "labels"),
    "kl by channel": ("kl", SAMPLE_DATA / "synthetic-clamp.safetensors", "--per-channel"),
    "top": ("kl", SAMPLE_DATA / "shards", "--top", "7"),
    "nll": ("nll", SAMPLE_DATA / "healthy-f32.safetensors", "--latents", SAMPLE_DATA / "latents.safetensors"),
    "stats": ("stats", SAMPLE_DATA / "synthetic-clamp.safetensors"),
    "stats of tokens": ("stats", SAMPLE_DATA / "tokens.safetensors", "--layout", "blc"),
    "info": ("info", SAMPLE_DATA / "healthy-f32.safetensors"),
    "help": ("--help",),
    "help of sample": ("sample", "--help"),
}


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("command", COMMANDS)
def test_everything_fits_the_terminal(terminal: Terminal, command: str, columns: int) -> None:
    seen = terminal(*COMMANDS[command], columns=columns)
    assert seen.status == 0
    assert max(map(len, seen.lines)) <= columns
    assert not any("…" in line for line in seen.lines), "something was cut off"


@pytest.mark.parametrize("columns", [60, 80, 140])
@pytest.mark.parametrize("channels", [4, 16, 128])
def test_stats_is_one_screen_whatever_the_number_of_channels(
    terminal: Terminal, write: Write, channels: int, columns: int
) -> None:
    moments = moments_of(20, channels, 4, 4)
    moments[:, 3] *= 1e-3
    moments[:, channels + 3] *= 1e-3
    moments[0, channels:, 0, 0] = 25
    moments[1, 0, 0, 0] = torch.nan
    write("a.safetensors", moments=moments)
    seen = terminal("stats", "a.safetensors", columns=columns)
    assert len(seen.lines) <= 40 and max(map(len, seen.lines)) <= columns
    assert "e+" not in seen.text
    assert "above 20, clamped" in seen.text
    full = terminal("stats", "a.safetensors", "--full", columns=columns)
    assert "latents_std" in full.text or channels > 32
    assert "--save-normalization" in full.text or channels <= 32
    assert max(map(len, full.lines)) <= max(columns, 80)  # lines to paste are not cut


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_a_comparison_breaks_no_word_and_cuts_no_number(terminal: Terminal, write: Write, columns: int) -> None:
    moments = moments_of(20, 16, 4, 4)
    write("there.safetensors", moments=moments)
    moments[:, 3] *= 1e-3
    moments[:, 19] *= 1e-3
    moments[0, 20] = 25
    write("a.safetensors", moments=moments)
    seen = terminal("stats", "a.safetensors", "--against", "there.safetensors", columns=columns)
    assert len(seen.lines) <= (40 if columns >= 80 else 45) and max(map(len, seen.lines)) <= columns
    (row,) = [line.split() for line in seen.lines if line.endswith("collapsed → active")]
    assert row[0] == "3" and len(row) in (6, 8, 10)
    assert "\x1b[1;31mcollapsed" in seen.screen


FIGURES = "correlation", "shape", "spectrum", "duplicates"
ASKED = [part for name in FIGURES for part in ("--with", name)]


@pytest.mark.parametrize("beside", [(), ("--against", "there.safetensors"), ("--by", "labels")], ids=str)
@pytest.mark.parametrize("channels", [4, 16])
def test_all_that_with_adds_leaves_stats_on_one_screen(
    terminal: Terminal, write: Write, channels: int, beside: tuple[str, ...]
) -> None:
    moments, labels = moments_of(20, channels, 4, 4), torch.arange(20) % 5
    write("there.safetensors", moments=moments, labels=labels)
    moments = moments * 1.5
    moments[0, channels:, 0, 0] = 25
    moments[1, 0, 0, 0] = torch.nan
    moments[3] = moments[2]
    write("a.safetensors", moments=moments, labels=labels)
    seen = terminal("stats", "a.safetensors", *ASKED, *beside)
    assert seen.status == 0
    assert len(seen.lines) <= 40 and max(map(len, seen.lines)) <= 80
    names = [line.partition("  ")[0] for line in seen.lines]
    assert {"correlation", "skewness", "kurtosis", "neighbours", "power", "copies"} <= set(names)
    assert "effective rank" in seen.text and "left out of correlation" in seen.text
    full = terminal("stats", "a.safetensors", *ASKED, *beside, "--full").text
    for title in ("Correlation of channels", "Shape of the latents", "Power by spatial frequency", "Copies among"):
        assert title in full


@pytest.mark.parametrize("figure", FIGURES)
def test_one_figure_of_with_is_a_line_or_two_that_agree_with_the_json(
    terminal: Terminal, cli: Cli, write: Write, figure: str
) -> None:
    write("a.safetensors", moments=moments_of(20, 8, 4, 4))
    command = "stats", "a.safetensors", "--with", figure
    figures = cli(*command).json["with"][figure]
    lines = terminal(*command).lines
    begin = lines.index("More figures; --full shows all of them") + 1
    said = " ".join(lines[begin : lines.index("", begin)])
    if figure == "correlation":
        pair = figures["strongest"][0]
        assert f"{pair['correlation']:.2f} of {pair['channels'][0]} and {pair['channels'][1]}, " in said
        assert f"effective rank {figures['effective_rank']:.4g}" in said
    elif figure == "shape":
        furthest = max(figures["channels"], key=lambda each: abs(each["skewness"]))
        assert f"furthest from 0 {furthest['skewness']:.4f} of channel {furthest['channel']}" in said
    elif figure == "spectrum":
        assert all(f"{lag['overall']:.3f} along {lag['axis']}" in said for lag in figures["lag1"])
    else:
        assert said == "copies  0 among 20 samples"


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_names_of_the_overview_are_not_broken(terminal: Terminal, write: Write, columns: int) -> None:
    moments = moments_of(20, 4, 4, 4) * 1e-3
    moments[0, 4:] = 25
    write("a.safetensors", moments=moments)
    names = [line.partition("  ")[0] for line in terminal("stats", "a.safetensors", columns=columns).lines]
    assert {"KL per sample", "KL per element", "aggregate's KL"} <= set(names)


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_sixteen_channels_without_a_finding_are_all_shown(terminal: Terminal, write: Write, columns: int) -> None:
    moments = moments_of(50, 16, 4, 4)
    moments[:, 16:] -= 6
    write("a.safetensors", moments=moments)
    seen = terminal("stats", "a.safetensors", columns=columns)
    assert len(seen.lines) <= 40
    assert len([line for line in seen.lines if line.endswith("active")]) == 16


@pytest.mark.parametrize("columns", [44, 60, 80])
@pytest.mark.parametrize("command", ["kl", "stats", "stats of latents"])
def test_a_row_per_label_cuts_no_number_and_no_label(
    terminal: Terminal, write: Write, command: str, columns: int
) -> None:
    labels = torch.tensor([2**63 - 2, 2**63 - 1]).repeat(10)
    write("a.safetensors", moments=moments_of(20, 8, 4, 4), labels=labels)
    kind = ("--parameterization", "none") if "latents" in command else ()
    arguments = command.split()[0], "a.safetensors", "--by", "labels", *kind

    def rows(columns: int) -> list[list[str]]:
        seen = terminal(*arguments, columns=columns)
        return [line.split() for line in seen.lines if line.strip().startswith(str(2**63)[:-1])]

    for narrow, wide in zip(rows(columns), rows(200), strict=True):
        assert narrow[0] == wide[0] and len(narrow) >= 3
        assert set(narrow) <= set(wide)
    assert [row[0] for row in rows(columns)] == [str(2**63 - 2), str(2**63 - 1)]


NARROW = {
    "kl": ("kl", "a.safetensors"),
    "kl by channel": ("kl", "a.safetensors", "--per-channel"),
    "top": ("kl", "a.safetensors", "b.safetensors", "--top", "9", "--columns", "labels"),
    "top of a folder": ("kl", "folder-with-a-long-name", "--top", "9", "--columns", "labels"),
    "nll": ("nll", "b.safetensors", "--latents", "z.safetensors", "--columns", "labels"),
    "info": ("info", "folder-with-a-long-name"),
    "stats": ("stats", "b.safetensors", *ASKED),
    "stats, all of it": ("stats", "b.safetensors", *ASKED, "--full"),
    "stats against": ("stats", "a.safetensors", "--against", "b.safetensors"),
    "dry run": ("kl", "a.safetensors", "--dry-run"),
}


@pytest.mark.parametrize("columns", [40, 60])
@pytest.mark.parametrize("command", NARROW)
def test_a_narrow_terminal_breaks_no_word_and_cuts_no_number(
    terminal: Terminal, write: Write, tmp_path: Path, command: str, columns: int
) -> None:
    moments = moments_of(20, 4, 4, 4)
    for place in ("", "folder-with-a-long-name/"):
        (tmp_path / place).mkdir(exist_ok=True)
        write(f"{place}b.safetensors", moments=moments, labels=torch.arange(20))
        outlying = moments.clone()
        outlying[:3, 4:, 0, 0] = 19
        write(f"{place}a.safetensors", moments=outlying, labels=torch.arange(20))
    write("z.safetensors", latents=torch.zeros(20, 4, 4, 4))
    narrow, wide = (terminal(*NARROW[command], columns=width) for width in (columns, 400))
    assert narrow.status == 0
    assert max(map(len, narrow.lines)) <= (columns if "all" not in command else 80)
    assert not {"above", "below"} & set(narrow.lines)
    shown, whole = (set(re.sub("[ ▁▂▃▄▅▆▇█▏▎▍▌▋▊▉─]+", " ", seen.text).split()) for seen in (narrow, wide))
    rounded = {number(float(word.replace(",", "")), 3) for word in whole if re.fullmatch(r"-?[\d,]+\.\d+(e\d)?", word)}
    assert shown - whole - rounded - {"file:", "tensor:", "1:", "2:"} == set()


def test_correlations_without_room_for_a_matrix_are_the_strongest(terminal: Terminal, write: Write) -> None:
    write("a.safetensors", moments=moments_of(20, 8, 4, 4))
    command = "stats", "a.safetensors", "--with", "correlation", "--full"
    assert re.search(r"ch +0 +1 .* 7$", terminal(*command).text, re.MULTILINE)
    narrow = terminal(*command, columns=40).text
    assert "ch  and  correlation" in narrow and len(re.findall(r"(?m)^ \d +\d +-?0\.\d{3}$", narrow)) == 10


@pytest.mark.parametrize("command", ["stats", "kl", "info"])
def test_markdown_has_tables_that_are_not_cut(cli: Cli, command: str) -> None:
    outcome = cli(command, SAMPLE_DATA / "healthy-f32.safetensors", "--format", "markdown")
    assert outcome.status == 0
    rows = [line for line in outcome.out.splitlines() if line.startswith("|")]
    assert len(rows) > 3 and any(re.fullmatch(r"\|[-|]+\|", row) for row in rows)
    assert "= 4 mean" in outcome.out and "= 4 mean" not in outcome.err


def test_kl_on_a_terminal_is_a_summary_and_not_a_million_rows(terminal: Terminal) -> None:
    text = terminal(*COMMANDS["kl"]).text
    for words in ("KL of 512 finite values [nats]", "mean", "50 %", "Histogram", "Largest KL", "bchw"):
        assert words in text
    assert "file,tensor,index" not in text
    assert len(text.splitlines()) < 60


def test_numbers_align_on_the_point(terminal: Terminal) -> None:
    lines = terminal(*COMMANDS["kl"]).lines
    begin = next(number for number, line in enumerate(lines) if "KL of" in line)
    rows = [line for line in lines[begin : begin + 12] if re.search(r"(mean|min|max|\d+ %)", line)]
    assert len(rows) == 8
    assert len({tuple(point.start() for point in re.finditer(r"\.", line)) for line in rows}) == 1


def test_top_shows_the_largest_alone(terminal: Terminal) -> None:
    text = terminal(*COMMANDS["top"]).text
    assert "Largest KL" in text
    assert "Histogram" not in text


def test_a_format_said_overrules_the_terminal(terminal: Terminal, write: Write) -> None:
    write("a.safetensors", moments=moments_of(2))
    seen = terminal("kl", "a.safetensors", "--format", "csv", "--quiet")
    assert seen.lines[0] == "file,tensor,index,kl"
    assert len(seen.lines) == 3


def test_with_an_output_file_the_terminal_stays_empty(terminal: Terminal, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    assert terminal("kl", "a.safetensors", "-o", "out.csv", "--quiet") == Seen(0, "")
    assert "out.csv" in files_below(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sample", "a.safetensors", "-o", "-"), "terminal"),
        (("kl", "a.safetensors", "--format", "parquet"), "give -o FILE.parquet"),
    ],
)
def test_bytes_are_kept_off_the_terminal(
    terminal: Terminal, write: Write, arguments: tuple[str, ...], words: str
) -> None:
    write("a.safetensors", moments=moments_of())
    seen = terminal(*arguments, "--quiet", columns=140)
    assert seen.status == 2
    assert words in seen.text
    assert len(seen.lines) == 1


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_messages_break_between_words_and_in_a_pipe_nowhere(
    terminal: Terminal, cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    path = write("of-a-name-with-hyphens.safetensors", moments=moments_of())
    arguments = "kl", path.name, "--key", "nosuch", "--key", "n" * 50
    said = cli(*arguments).err
    assert said.count("\n") == 1 and len(said) > 100
    monkeypatch.setenv("LATENTKIT_COLOR", "always")
    for seen in (terminal(*arguments, columns=columns), terminal(*arguments, columns=columns, piped=True)):
        assert "\x1b[1mlatentkit:\x1b[0m" in seen.screen
        assert [word for line in seen.lines for word in line.split(" ")] == said.split()
        assert all(len(line) <= columns or " " not in line for line in seen.lines)
        assert len(seen.lines) > 1


# ---- colour and width ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["kl", "stats", "info", "help"])
def test_no_color_is_honoured(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    seen = terminal(*COMMANDS[command])
    # Bold and dim are no colours.
    colours = [
        code
        for style in STYLE.findall(seen.screen)
        for code in style[2:-1].split(";")
        if code[:1] in "349" and len(code) > 1
    ]
    assert colours == []
    assert seen.text == terminal(*COMMANDS[command]).text


MARKED = {"kl nothing": "31", "kl a.safetensors -o kl.csv": "36", "kl nan.safetensors -o nan.csv": "33"}


@pytest.mark.parametrize(("command", "colour"), MARKED.items(), ids=MARKED)
def test_errors_doubts_and_notes_have_their_colours(
    terminal: Terminal, write: Write, monkeypatch: pytest.MonkeyPatch, command: str, colour: str
) -> None:
    write("a.safetensors", moments=moments_of())
    write("nan.safetensors", moments=moments_of() * torch.nan)
    mark = f"\x1b[{colour}m\x1b[1mlatentkit:\x1b[0m "
    assert mark in terminal(*command.split()).screen
    monkeypatch.setenv("NO_COLOR", "1")
    assert mark not in terminal(*command.split(), "--overwrite" if "-o" in command else "-v").screen


def test_color_goes_before_the_environment_and_changes_no_format(
    cli: Cli, terminal: Terminal, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.safetensors", moments=moments_of())
    monkeypatch.setenv("LATENTKIT_COLOR", "auto")  # which the option sets, and this test sets back
    monkeypatch.setenv("NO_COLOR", "1")
    plain = cli("kl", "a.safetensors", "--format", "table").out
    assert "\x1b" not in plain
    assert STYLE.sub("", cli("kl", "a.safetensors", "--format", "table", "--color", "always").out) == plain
    assert "\x1b[" in cli("--color", "always", "help", "kl").out
    assert cli("kl", "a.safetensors", "--color", "always").rows != []
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("LATENTKIT_COLOR", "always")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in terminal("stats", "a.safetensors", "--color", "never").screen


def test_force_color_changes_no_format(cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.safetensors", moments=moments_of())
    plain = cli("kl", "a.safetensors").out, cli("stats", "a.safetensors").out, cli("info", "a.safetensors").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert (
        cli("kl", "a.safetensors").out,
        cli("stats", "a.safetensors").out,
        cli("info", "a.safetensors").out,
    ) == plain


def test_columns_is_honoured_in_a_pipe(cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "n" * 90
    write("a.safetensors", **{name: moments_of()})
    widths = []
    for columns in (60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        widths.append(max(map(len, cli("info", "a.safetensors", "--format", "table").out.splitlines())))
    assert widths[:2] == [60, 80]
    assert 90 < widths[2] <= 200


def test_a_table_in_a_pipe_has_no_escapes(cli: Cli) -> None:
    assert "\x1b" not in cli(*COMMANDS["stats"], "--format", "table").out


@pytest.mark.parametrize("command", ["kl", "stats", "info"])
def test_a_locale_without_blocks_and_lines_gets_tables_too(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    assert cli(*COMMANDS[command], "--format", "table").status == 0
    assert b"moments" in out.getvalue()


def test_names_cannot_move_the_cursor(terminal: Terminal, write: Write) -> None:
    name = "a\x1b[2J\x1b]0;title\x07[red]"
    write(f"{name}.safetensors", moments=moments_of())
    for command in ("kl", "stats", "info"):
        seen = terminal(command, f"{name}.safetensors")
        assert seen.status == 0
        assert not CONTROL.search(seen.screen)
        assert "\x07" not in seen.screen
        assert "\x1b]" not in seen.screen


# ---- progress -----------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is shown at once."""
    monkeypatch.setattr("latentkit.cli.screen._PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("latentkit.cli.screen._LOG_LINE_SECONDS", 0.0)


WORK = {
    "kl": ("kl", "a.safetensors"),
    "stats": ("stats", "a.safetensors"),
    "sample": ("sample", "a.safetensors", "-o", "out"),
    "nll": ("nll", "a.safetensors", "--latents", "b.safetensors"),
}


@pytest.fixture
def work(write: Write) -> None:
    write("a.safetensors", moments=moments_of(300, 8, 16, 16, dtype="F16"))
    write("b.safetensors", latents=torch.zeros(300, 8, 16, 16))


@pytest.mark.parametrize("command", WORK)
@pytest.mark.usefixtures("impatient", "work")
def test_a_bar_shows_bytes_and_goes_away(terminal: Terminal, command: str) -> None:
    seen = terminal(*WORK[command], piped=True)
    assert seen.status == 0
    assert re.search(r"[0-9.]+/[0-9.]+ \S*[iB]", seen.text)
    # The cursor is shown again, and the line is erased at the end.
    assert seen.screen.rindex("\x1b[?25h") > seen.screen.rindex("\x1b[?25l")
    assert "\x1b" not in seen.piped


@pytest.mark.usefixtures("impatient", "work")
def test_the_bar_changes_no_data(terminal: Terminal, cli: Cli) -> None:
    assert terminal("kl", "a.safetensors", piped=True).piped == cli("kl", "a.safetensors", "--quiet").out


@pytest.mark.usefixtures("work")
def test_short_work_shows_no_bar(terminal: Terminal) -> None:
    assert not CONTROL.search(terminal("kl", "a.safetensors", piped=True).screen)


@pytest.mark.usefixtures("impatient", "work")
def test_quiet_shows_no_bar(terminal: Terminal) -> None:
    assert terminal("kl", "a.safetensors", "--quiet", piped=True).screen == ""


@pytest.mark.usefixtures("impatient", "work")
def test_the_bar_is_gone_before_an_error_is_said(terminal: Terminal, write: Write) -> None:
    moments = moments_of(300, 8, 16, 16, dtype="F16")
    moments[299, 0, 0, 0] = torch.nan
    write("a.safetensors", moments=moments)
    seen = terminal("kl", "a.safetensors", "--batch-size", 32, "--on-nonfinite", "error", piped=True)
    assert seen.status == 1
    assert seen.screen.rindex("\x1b[?25h") < seen.screen.index("sample 299")


@pytest.mark.parametrize("command", WORK)
@pytest.mark.usefixtures("impatient", "work")
def test_a_log_gets_lines(cli: Cli, command: str) -> None:
    lines = [line for line in cli(*WORK[command]).err.splitlines() if "% done" in line]
    assert lines
    assert all(re.fullmatch(r"latentkit: \d+% done, [\d,]+ MiB/s, [\d,]+ s left", line) for line in lines)


@pytest.mark.parametrize("command", ["kl", "stats", "sample"])
@pytest.mark.usefixtures("impatient")
def test_a_log_gets_lines_while_a_sample_is_read_in_pieces(cli: Cli, write: Write, command: str) -> None:
    write("a.safetensors", moments=moments_of(2, 2, 400, 400))
    assert cli(*WORK[command]).status == 0


@pytest.mark.usefixtures("impatient")
def test_the_last_line_of_a_log_says_all(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(300, 8, 16, 16))
    assert "latentkit: 100% done" in cli("kl", "a.safetensors").err


# ---- once for real ------------------------------------------------------------------------------------------------


def test_a_real_process_on_a_real_terminal_draws_tables() -> None:
    master, slave = open_terminal(80)
    shown: list[bytes] = []
    reader = threading.Thread(target=drain, args=(master, shown))
    reader.start()
    command = [sys.executable, "-m", "latentkit", "stats", str(SAMPLE_DATA / "healthy-f16.safetensors")]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.run(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment | {"TERM": "xterm"}, timeout=60
    )
    os.close(slave)
    reader.join()
    os.close(master)
    seen = Seen(process.returncode, b"".join(shown).decode())
    assert seen.status == 0
    assert "KL per element" in seen.text
    assert max(map(len, seen.lines)) <= 80
