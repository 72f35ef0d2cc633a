"""Names of files and tensors that are made to trick: drawn harmlessly, never written outside the output folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli, files_below, moments_of

Write = Callable[..., Path]

KEYS = {
    "parent": "../../x",
    "absolute": "/tmp/latentkit-hostile",
    "escape": "\x1b[2J\x1b]0;title\x07",
    "markup": "[red]x[/red][link=file:///]",
    "html": "<script>alert(1)</script>\"'&",
    "bidi": "\u202egnp\u2066",
    "lines": "a\nb\r\nc\u2028d\x85e",
    "nul": "a\0b",
    "long": "k" * 10_000,
    "formula": "=1+1",
    "empty": "",
}

COMMANDS = {
    "info": ("info", "d", "--format", "table"),
    "info as JSON": ("info", "d"),
    "kl": ("kl", "d", "--format", "table"),
    "kl with a wrong key": ("kl", "d", "--key", "nosuch"),
    "stats": ("stats", "d", "--format", "table"),
    "report": ("report", "d", "-o", "out/a.html"),
    "sample": ("sample", "d", "-o", "out", "--carry", "*"),
    "nll": ("nll", "d", "--latents", "d", "--format", "table"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("key", KEYS)
def test_a_hostile_key(cli: Cli, write: Write, tmp_path: Path, command: str, key: str) -> None:
    name = "".join(char for char in KEYS[key] if char not in "/\0")[:200]
    write(f"d/n{name}.safetensors", {KEYS[key]: KEYS[key]}, **{KEYS[key]: moments_of()})
    before = files_below(tmp_path)
    outcome = cli(*COMMANDS[command])
    assert outcome.status == (2 if command in ("kl with a wrong key", "nll") else 0), outcome.err
    assert all(line.isprintable() for line in (outcome.out + outcome.err).split("\n"))
    assert max(map(len, outcome.err.split("\n"))) < 700
    made = set(files_below(tmp_path)) - set(before)
    assert all(path.startswith(f"out{os.sep}") for path in made)
    assert not os.path.exists("/tmp/latentkit-hostile")
    if command == "report":
        page = (tmp_path / "out/a.html").read_text()
        assert "<script>alert" not in page
        assert not any(mark in page for mark in ("\x1b", "\u202e", "\u2066", "\u2028", "\x85", "\0"))
