"""Make what the README shows: the picture of a collapsed encoder, and what its commands print on a terminal. And the
man page, which the wheel installs.

    python tests/make_first_look.py

Commands run in a pseudo-terminal of 80 columns, one after the other in one copy of ``sample_data``. rich turns what
``stats`` prints into an SVG, without the fonts that it would fetch. ``tests/test_docs.py`` makes all of it again, and
compares.
"""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / ".github" / "stats.svg"
MAN_PAGE = ROOT / ".github" / "latentkit.1"
PICTURED = "latentkit stats sample_data/collapsed.safetensors"
ROWS, COLUMNS = 40, 80

_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def on_terminal(command: str, folder: Path, term: str) -> str:
    """What ``command`` prints on a terminal, standard error too."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    unset = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    process = subprocess.Popen(
        [sys.executable, "-m", *command.split()],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": term, "PYTHONPATH": str(ROOT)},
        cwd=folder,
    )
    os.close(theirs)
    data = b""
    while True:
        try:
            more = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        data += more
    os.close(ours)
    if process.wait():
        raise RuntimeError(f"{command} failed: {data.decode()}")
    return re.sub(" +\n", "\n", data.decode().replace("\r\n", "\n"))


def picture(folder: Path) -> str:
    """The SVG."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(f"$ {PICTURED}\n{on_terminal(PICTURED, folder, 'xterm-256color')}".rstrip()))
    svg = console.export_svg(title="latentkit", theme=DEFAULT_TERMINAL_THEME, unique_id="latentkit")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


def readme(folder: Path) -> str:
    """The README with what its commands print today."""

    def run_again(block: re.Match[str]) -> str:
        commands = re.findall(r"^\$ (.*)$", block[1], re.MULTILINE)
        shown = [f"$ {command}\n{on_terminal(command, folder, 'dumb').strip()}\n" for command in commands]
        return "```console\n" + "\n".join(shown) + "```"

    return _BLOCK.sub(run_again, README.read_text(encoding="utf-8"))


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        shutil.copytree(ROOT / "sample_data", Path(name) / "sample_data")
        PICTURE.write_text(picture(Path(name)), encoding="utf-8")
        README.write_text(readme(Path(name)), encoding="utf-8")
        MAN_PAGE.write_text(on_terminal("latentkit help --man", Path(name), "dumb"), encoding="utf-8")
