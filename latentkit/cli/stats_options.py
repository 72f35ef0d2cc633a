"""The options of ``stats``."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import typer

from latentkit.cli.options import Factors
from latentkit.errors import RequestError
from latentkit.health.conditions import Condition
from latentkit.health.figures import condition

_CHECKING = "Checking"
_ASKING = "More figures"
_MERGING = "Parts"


class StatsFormat(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


class Extra(StrEnum):
    correlation = "correlation"
    shape = "shape"
    spectrum = "spectrum"
    duplicates = "duplicates"


@dataclass
class Asking:
    """Figures that cost time."""

    extra: Annotated[
        list[Extra],
        typer.Option(
            "--with", metavar="NAME",
            help="Also correlation, shape, spectrum or duplicates; repeatable.",
            rich_help_panel=_ASKING,
        ),
    ] = field(default_factory=list)  # fmt: skip
    by: Annotated[
        str | None,
        typer.Option(
            "--by", metavar="KEY", help="Also figures per label, of a tensor of labels.", rich_help_panel=_ASKING
        ),
    ] = None

    @property
    def names(self) -> list[str]:
        return [extra.value for extra in dict.fromkeys(self.extra)]


@dataclass
class Checking(Factors):
    """What the figures are held against."""

    fail_if: Annotated[
        list[str],
        typer.Option(
            "--fail-if", metavar="COND", help="Exit with 3 if it holds: 'nan_count > 0'; repeatable.",
            rich_help_panel=_CHECKING,
        ),
    ] = field(default_factory=list)  # fmt: skip
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="OTHER", help="Another encoder's or epoch's outputs, or JSON of stats, to set beside.",
            rich_help_panel=_CHECKING,
        ),
    ] = None  # fmt: skip
    target_std: Annotated[
        float,
        typer.Option(
            "--target-std", metavar="S", help="Spread of scaled latents; EDM2 takes 0.5.",
            rich_help_panel="Scaling",
        ),
    ] = 1.0  # fmt: skip
    save_normalization: Annotated[
        str | None,
        typer.Option(
            "--save-normalization", metavar="FILE", help="Write scale and shift, for sample --normalization.",
            rich_help_panel="Scaling",
        ),
    ] = None  # fmt: skip

    def conditions(self) -> list[Condition]:
        return [condition(text) for text in self.fail_if]


@dataclass
class Showing:
    """What of the result is shown."""

    format: Annotated[
        StatsFormat | None,
        typer.Option(
            "--format", metavar="FORM", help="table (terminal), json (pipe), csv (a row per channel) or markdown.",
            rich_help_panel="Writing",
        ),
    ] = None  # fmt: skip
    full: Annotated[
        bool, typer.Option("--full", help="All tables, not one screen of them.", rich_help_panel="Writing")
    ] = False
    channels: Annotated[
        str | None,
        typer.Option(
            "--channels", metavar="LIST", help="Channels in the tables, such as 0,3,8-15.", rich_help_panel="Writing"
        ),
    ] = None

    def chosen(self, count: int) -> list[int] | None:
        """The channels that were asked for, of ``count``; None if none were."""
        if self.channels is None:
            return None
        try:
            ranges = {_range(part) for part in self.channels.split(",")}
        except ValueError:
            raise RequestError(f"--channels {self.channels!r}: give numbers and ranges, such as 0,3,8-15") from None
        if max(numbers[-1] for numbers in ranges) >= count:
            raise RequestError(f"--channels {self.channels}: there are {count} channels, 0 to {count - 1}")
        return sorted(set().union(*ranges))


Merge = Annotated[
    bool,
    typer.Option(
        "--merge", help="FILES are states of stats: give what one run over all gives.", rich_help_panel=_MERGING
    ),
]


@dataclass
class Merging:
    """Runs over parts, and what they come to together."""

    state: Annotated[
        str | None,
        typer.Option(
            "--state", metavar="FILE", help="Write what was counted, for --merge; a small safetensors file.",
            rich_help_panel=_MERGING,
        ),
    ] = None  # fmt: skip
    merge: Merge = False


def _range(part: str) -> range:
    first, dash, last = part.partition("-")
    numbers = range(int(first), int(last if dash else first) + 1)
    if not numbers or numbers[0] < 0:
        raise ValueError(part)
    return numbers
