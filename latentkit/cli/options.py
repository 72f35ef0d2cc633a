"""Options that several commands share: a dataclass per group, so that they mean the same everywhere."""

import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import typer

from latentkit.cli.usage import reader
from latentkit.read.choice import Selection
from latentkit.read.samples import SampleChoice
from latentkit.read.selection import selection_of


class Parameterization(StrEnum):
    logvar = "logvar"
    std = "std"
    var = "var"
    softplus = "softplus"
    none = "none"


class RowFormat(StrEnum):
    table = "table"
    csv = "csv"
    jsonl = "jsonl"
    json = "json"
    parquet = "parquet"
    markdown = "markdown"


class FactFormat(StrEnum):
    table = "table"
    json = "json"
    markdown = "markdown"


class When(StrEnum):
    auto = "auto"
    always = "always"
    never = "never"


class OnNonfinite(StrEnum):
    warn = "warn"
    error = "error"
    skip = "skip"


#: The options that were typed, by their parameters' names: what comes from the environment is not among them.
Typed = dict[str, str]

#: Where --color keeps what it says; it is also its default.
COLOR = "LATENTKIT_COLOR"

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILES",
        help="Files, folders, globs, an index.json, @list.txt, or @- for stdin.",
        show_default=False,
    ),
]

_READING = "Reading"
_CHOOSING = "Samples"
_COMPUTING = "Computing"
_WRITING = "Writing"
_FAULTS = "Bad files"
_MESSAGES = "Messages"


@dataclass
class Reading:
    """Which tensors, and how their axes and halves are read."""

    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            metavar="NAME",
            help="Tensor of moments, a name or a glob; repeatable.",
            rich_help_panel=_READING,
        ),
    ] = field(default_factory=list)
    mean_key: Annotated[
        str | None,
        typer.Option("--mean-key", metavar="NAME", help="Tensor with the means, of a pair.", rich_help_panel=_READING),
    ] = None
    logvar_key: Annotated[
        str | None,
        typer.Option(
            "--logvar-key", metavar="NAME", help="Tensor with the scale, of a pair.", rich_help_panel=_READING
        ),
    ] = None
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout", metavar="AXES", help="Axes as letters: bchw, bcthw, blc, chw, bbchw.", rich_help_panel=_READING
        ),
    ] = None
    parameterization: Annotated[
        Parameterization | None,
        typer.Option(
            "--parameterization",
            metavar="KIND",
            help="The scale: logvar, std, var, softplus, none (stats).",
            rich_help_panel=_READING,
        ),
    ] = None

    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", metavar="NAME", help="Read as this tool writes: see latentkit guide caches.",
            rich_help_panel=_READING,
        ),
    ] = None  # fmt: skip

    def selection(self, *, latents: bool = False) -> Selection:
        """What to choose; ``latents``: whether the command takes latents already drawn."""
        parameterization = self.parameterization.value if self.parameterization else None
        named = self.key, self.mean_key, self.logvar_key
        return selection_of(*named, self.layout, parameterization, self.preset, latents=latents)


@dataclass
class Choosing:
    """Which samples: a quick look at a terabyte."""

    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Only the first N samples.", rich_help_panel=_CHOOSING),
    ] = None
    every: Annotated[
        int, typer.Option("--every", metavar="N", min=1, help="Only every N-th sample.", rich_help_panel=_CHOOSING)
    ] = 1
    indices: Annotated[
        str | None,
        typer.Option(
            "--indices", metavar="FILE", help="Only those in a list of file, tensor, index; - is stdin.",
            rich_help_panel=_CHOOSING,
        ),
    ] = None  # fmt: skip
    exclude: Annotated[
        str | None,
        typer.Option(
            "--exclude", metavar="FILE", help="All but those in such a list, as kl --top prints them.",
            rich_help_panel=_CHOOSING,
        ),
    ] = None  # fmt: skip
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would be read and written, and stop.", rich_help_panel=_CHOOSING),
    ] = False

    def choice(self) -> SampleChoice:
        from latentkit.errors import RequestError

        if self.indices == self.exclude == "-":
            raise RequestError("--indices - and --exclude -: standard input is one list; save the other to a file")
        return SampleChoice(self.limit, self.every, self.indices, self.exclude)


Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Threads, up to 16; by default one per core.",
        rich_help_panel=_COMPUTING,
    ),
]


@dataclass
class Computing:
    """How and where posteriors are computed."""

    clamp_min: Annotated[
        float,
        typer.Option("--clamp-min", metavar="L", help="Lower bound of the log-variance.", rich_help_panel=_COMPUTING),
    ] = -30.0
    clamp_max: Annotated[
        float,
        typer.Option("--clamp-max", metavar="L", help="Upper bound of the log-variance.", rich_help_panel=_COMPUTING),
    ] = 20.0
    device: Annotated[
        str,
        typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_COMPUTING),
    ] = "auto"
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", metavar="N", min=1, help="Most samples computed at once.", rich_help_panel=_COMPUTING
        ),
    ] = None

    workers: Workers = None

    def clamp(self) -> tuple[float, float]:
        import math

        from latentkit.errors import RequestError

        low, high = self.clamp_min, self.clamp_max
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise RequestError(
                f"--clamp-min {low} and --clamp-max {high}: need finite bounds, the first below the second"
            )
        return low, high


@dataclass
class Factors:
    """diffusers' factors: what maps raw latents to those that a model trains on, (z - shift) times scale."""

    scaling_factor: Annotated[
        float | None,
        typer.Option(
            "--scaling-factor", metavar="S", help="Latents are (z - shift) times S.", rich_help_panel="Scaling"
        ),
    ] = None
    shift_factor: Annotated[
        float | None,
        typer.Option("--shift-factor", metavar="S", help="Latents are (z - S) times scale.", rich_help_panel="Scaling"),
    ] = None

    @property
    def given(self) -> bool:
        return self.scaling_factor is not None or self.shift_factor is not None


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.", rich_help_panel=_WRITING)]

Carry = Annotated[
    list[str],
    typer.Option(
        "--carry", metavar="KEY", help="Copy this tensor through (a glob too); repeatable.", rich_help_panel=_WRITING
    ),
]


@dataclass
class Writing:
    """Where results go."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write here; the suffix chooses the format.",
            rich_help_panel=_WRITING,
        ),
    ] = None
    overwrite: Overwrite = False

    @property
    def place(self) -> str:
        """Where the result goes: by default standard output."""
        return "-" if self.output is None else self.output


KeepGoing = Annotated[
    bool,
    typer.Option("--keep-going", help="Pass over bad files, and list them at the end.", rich_help_panel=_FAULTS),
]


@dataclass
class Faults:
    """What becomes of files that cannot be processed."""

    keep_going: KeepGoing = False
    errors: Annotated[
        str | None,
        typer.Option(
            "--errors", metavar="FILE", help="With --keep-going: write the list here, as JSON lines.",
            rich_help_panel=_FAULTS,
        ),
    ] = None  # fmt: skip


def _remember(when: When | None) -> None:
    if when is not None:
        os.environ[COLOR] = when.value


Color = Annotated[
    When | None,
    typer.Option(
        "--color", metavar="WHEN", help="auto (on a terminal), always or never.", rich_help_panel=_MESSAGES,
        callback=_remember, is_eager=True, envvar=COLOR, parser=reader(When, "--color", COLOR),
    ),
]  # fmt: skip


@dataclass
class Messages:
    """What is said on stderr, and how it looks."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.", rich_help_panel=_MESSAGES)] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="More of what is done.", rich_help_panel=_MESSAGES)
    ] = False
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_MESSAGES)
    ] = False
    color: Color = None
