"""Help is short and whole, near misses are answered in our own words, and defaults come from the environment."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from conftest import SAMPLE_DATA, Cli

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


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help_on_a_narrow_terminal_breaks_no_word(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    texts = []
    for columns in ("40", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        texts.append(cli(*command, "--help").out)
    lines = [line for line in texts[0].splitlines() if len(line.split()) > 1 and not line.endswith("\\")]
    assert max(map(len, lines)) <= 40
    assert set(texts[0].split()) - {"\\"} <= set(texts[1].split())


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


# What is not typed in a shell on these pages: Python, and pip's and git's own lines.
SHELL = re.sub(r"(?s)```python.*?```", "", PAGES)


def test_every_command_on_a_page_is_there_and_has_its_options() -> None:
    typed = [part for line in re.findall(r"\blatentkit [^`\n]*", SHELL) for part in re.split(r"[|;&] *|\$\(", line)]
    checked = 0
    for name, rest in re.findall(r"(?m)^latentkit ([a-z]+)\b(.*)", "\n".join(typed)):
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*\w", rest))
        if options or name in COMMANDS:
            assert name in COMMANDS, (name, rest)
            assert options <= {option for command, option in OPTIONS if command == name} | {"--help"}, (name, rest)
            checked += len(options)
    assert checked > 30


def test_every_option_on_a_page_is_there() -> None:
    known = {option for _, option in OPTIONS} | {"--help", "--version", "--install-completion", "--show-completion"}
    elsewhere = {line for line in SHELL.splitlines() if re.search(r"\b(pip|git|make|gh|curl|jq|duckdb|uv)\b", line)}
    words = "\n".join(line for line in SHELL.splitlines() if line not in elsewhere)
    assert sorted(set(re.findall(r"(?<![\w<!-])--[a-z][a-z-]*\w", words)) - known) == []


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
    for command in (("kl", HEALTHY), ("convert", HEALTHY, "-o", "out")):
        outcome = cli(*command)
        assert (outcome.status, outcome.complaint) == (2, "latentkit: LATENTKIT_WORKERS many: must be a whole number")
    assert cli("kl", HEALTHY, "--workers", "1", "--limit", "1", "--quiet").status == 0
    monkeypatch.setenv("LATENTKIT_KEY", "moment*")
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
    "condition of a comparison": ("latentkit report x --fail-if kl_element.ch", "kl_element.change"),
    "condition of rows": ("latentkit nll x --fail-if p9", "p99"),
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


#: What is typed in each shell to be shown what completes ``$LINE``, after the script that latentkit prints for it.
SHELLS = {
    "bash": "COMP_WORDS=($LINE); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _latentkit_completion latentkit; "
            "echo ${COMPREPLY[@]}",
    "fish": "complete -C $LINE",
}  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes_keys_and_loads_nothing_heavy(tmp_path: Path, shell: str) -> None:
    program, used = tmp_path / "latentkit", tmp_path / "used"
    program.write_text(
        f"#!{sys.executable}\nimport atexit, sys\nfrom latentkit.__main__ import main\n"
        f"heavy = lambda: set(sys.modules) & {{'numba', 'numpy', 'torch'}}\n"
        f"atexit.register(lambda: print(heavy(), file=open({str(used)!r}, 'w')))\nmain()\n"
    )
    program.chmod(0o755)
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LINE": f"latentkit kl {HEALTHY} --key mo",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    script = subprocess.run(
        [program], env=environment | {"_LATENTKIT_COMPLETE": f"source_{shell}"}, capture_output=True, check=True
    ).stdout
    shown = subprocess.run(
        [shell, "-c", f"{script.decode()}\n{SHELLS[shell]}"], env=environment, capture_output=True, text=True
    )
    assert shown.stdout.split() == ["moments"], shown.stderr
    assert used.read_text() == "set()\n"


def test_defaults_of_the_environment_rule_out_no_states(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = SAMPLE_DATA / "healthy-f16.safetensors"
    assert cli("stats", healthy, "--state", "a.state").status == 0
    monkeypatch.setenv("LATENTKIT_LAYOUT", "blc")
    monkeypatch.setenv("LATENTKIT_CLAMP_MIN", "-3")
    assert cli("stats", "--merge", "a.state").status == 0
    outcome = cli("stats", "--merge", "a.state", "./a.state")
    assert (outcome.status, "./a.state: is given more than once" in outcome.complaint) == (2, True)
    outcome = cli("stats", "--merge", "a.state", "--clamp-min", -30, "--limit", 2)
    assert (outcome.status, outcome.complaint.endswith("leave out --limit, --clamp-min")) == (2, True)
