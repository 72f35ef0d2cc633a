"""Help is short and whole, near misses are answered in our own words, and defaults come from the environment."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main
from conftest import Cli

from latentkit.cli.main import app

ROOT = Path(__file__).parent.parent
GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands  # type: ignore[attr-defined]
HEALTHY = str(ROOT / "sample_data" / "healthy-f16.safetensors")
PAGES = "\n".join(
    page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "latentkit/guide").glob("*.md"))
)
OPTIONS = sorted(
    (name, option)
    for name, command in COMMANDS.items()
    for parameter in command.params
    for option in parameter.opts
    if option.startswith("--")
)


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help_is_a_screen_and_a_half_of_80_columns_with_examples_first(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli(*command, "--help").out.splitlines()
    examples = [line for line in lines if line.startswith("  latentkit ")]
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert lines[3] == "Examples"
    assert lines[4] == examples[0]
    assert len(examples) == 3


def test_h_and_help_of_a_command_are_its_help(cli: Cli) -> None:
    assert cli("kl", "-h").out == cli("kl", "--help").out == cli("help", "kl").out + "\n"
    assert cli("-h").out == cli("help").out + "\n"
    assert cli("-V").out == cli("--version").out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_its_help(cli: Cli, command: str) -> None:
    shown = re.findall(r"(?m)^  (?:-\w, )?(--[\w-]+)", cli(command, "--help").out)
    assert sorted(shown) == sorted([option for name, option in OPTIONS if name == command] + ["--help"])


def test_every_option_is_on_a_page() -> None:
    assert [option for _, option in OPTIONS if not re.search(rf"{option}(?![\w-])", PAGES)] == []


def test_every_option_and_command_on_a_page_is_there() -> None:
    known = {option for _, option in OPTIONS} | {"--help", "--version", "--install-completion", "--show-completion"}
    for line in re.findall(r"\blatentkit (\w+)([^`\n]*)", re.sub(r"(?s)import latentkit.*?```", "", PAGES)):
        if line[0] in COMMANDS:
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*\w", line[1])) <= known, line


NEAR = {
    "command": (("kll",), "there is no command 'kll'; did you mean kl or nll?"),
    "help": (("help", "stat"), "there is no command 'stat'; did you mean stats?"),
    "option": (("kl", HEALTHY, "--colums", "x"), "kl has no option --colums; did you mean --columns or --color?"),
    "option of another": (("kl", HEALTHY, "--seed", "1"), "kl has no option --seed: it is one of sample"),
    "short option": (("kl", HEALTHY, "-z"), "kl has no option -z; see latentkit kl --help"),
    "value": (("kl", HEALTHY, "--units", "nat"), "--units nat: not one of nats, bits, bits-per-dim; "
              "did you mean nats?"),
    "no number": (("kl", HEALTHY, "--limit", "x"), "--limit x: must be a whole number"),
    "too small": (("kl", HEALTHY, "--limit", "0"), "--limit 0: must be at least 1"),
    "too large": (("sample", HEALTHY, "--seed", "-1"), f"--seed -1: must be from 0 to {2**64 - 1}"),
    "no value": (("kl", HEALTHY, "--limit"), "--limit needs a value"),
    "a value too many": (("kl", HEALTHY, "--symmetric=3"), "--symmetric takes no value"),
    "no files": (("stats",), "stats needs FILES, as in: latentkit stats sample_data/healthy-f16.safetensors"),
    "no latents": (("nll", HEALTHY), "nll needs --latents LATENTS; see latentkit nll --help"),
    "topic": (("guide", "noize"), "guide has no page 'noize'; did you mean noise?"),
    "too many": (("guide", "a", "b"), "guide takes no further argument b; see latentkit guide --help"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), NEAR.values(), ids=NEAR)
def test_a_near_miss_is_answered_in_one_sentence(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    outcome = cli(*arguments)
    assert (outcome.status, outcome.complaint) == (2, f"latentkit: {said}")


def test_the_environment_gives_defaults_and_what_is_typed_goes_first(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTKIT_WORKERS", "many")
    outcome = cli("kl", HEALTHY)
    assert (outcome.status, outcome.complaint) == (2, "latentkit: LATENTKIT_WORKERS many: must be a whole number")
    assert cli("kl", HEALTHY, "--workers", "1", "--limit", "1", "--quiet").status == 0


def test_verbose_names_defaults_of_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTKIT_CLAMP_MIN", "-20")
    monkeypatch.setenv("LATENTKIT_WORKERS", "1")
    monkeypatch.setenv("LATENTKIT_COLOR", "never")
    said = [line for line in cli("kl", HEALTHY, "--verbose", "--workers", "2").err.splitlines() if "LATENTKIT" in line]
    assert said == ["latentkit: --clamp-min -20, by LATENTKIT_CLAMP_MIN"]


def test_the_man_page_holds_every_option_and_renders_without_a_warning(cli: Cli) -> None:
    page = cli("help", "--man").out
    for _, option in OPTIONS:
        assert option.replace("-", r"\-") in page
    if shutil.which("groff"):
        shown = subprocess.run(["groff", "-man", "-Tutf8", "-ww"], input=page.encode(), capture_output=True, check=True)
        assert shown.stderr == b""


COMPLETIONS = {
    "command": ("latentkit st", "stats"),
    "topic": ("latentkit guide noi", "noise"),
    "layout": ("latentkit kl x --layout bl", "blc"),
    "preset": ("latentkit kl x --preset lightn", "lightningdit"),
    "parameterization": ("latentkit kl x --parameterization so", "softplus"),
    "condition": ("latentkit stats x --fail-if collapsed_ch", "collapsed_channels"),
    "key": (f"latentkit kl {HEALTHY} --key mo", "moments"),
    "keys of a folder": (f"latentkit kl {HEALTHY.rpartition('/')[0]}/shards --columns la", "labels"),
}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("line", "completed"), COMPLETIONS.values(), ids=COMPLETIONS)
def test_shells_complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str, line: str, completed: str
) -> None:
    monkeypatch.setenv("_LATENTKIT_COMPLETE", f"complete_{shell}")
    if shell == "bash":
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    else:
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    with pytest.raises(SystemExit):
        app(args=[], prog_name="latentkit")
    shown = capsys.readouterr().out
    assert completed in shown
