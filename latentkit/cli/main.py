"""``latentkit``: the commands, and what is true of all of them."""

import gc
import io
import os
import sys
from typing import Annotated

import typer

from latentkit import __version__
from latentkit.cli import convert, guide, help, info, interrupts, kl, nll, report, sample, stats
from latentkit.cli.commands import (
    DATA_FAILED,
    WRONG_REQUEST,
    add_command,
    flushed,
    leave_quietly,
    output_failed,
    sentence_of,
)
from latentkit.cli.help_text import Group
from latentkit.cli.options import Color
from latentkit.cli.screen import complain
from latentkit.cli.usage import sentence_of_usage
from latentkit.errors import RequestError
from latentkit.write.stream import Patient

_EXAMPLES = """
latentkit stats sample_data/healthy-f16.safetensors
latentkit kl sample_data/shards | head
latentkit sample sample_data/shards -o latents --seed 7
"""

_MOST_COLUMNS = 10_000

app = typer.Typer(
    name="latentkit",
    help="Measure and sample the diagonal Gaussian posterior of saved VAE-encoder outputs.",
    epilog=_EXAMPLES,
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"latentkit {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    color: Color = None,
) -> None:
    del version, color


add_command(app, info.info, epilog=info.EXAMPLES)
add_command(app, stats.stats, epilog=stats.EXAMPLES)
add_command(app, report.report, epilog=report.EXAMPLES)
add_command(app, kl.kl, epilog=kl.EXAMPLES)
add_command(app, nll.nll, epilog=nll.EXAMPLES)
add_command(app, sample.sample, epilog=sample.EXAMPLES)
add_command(app, convert.convert, epilog=convert.EXAMPLES)
add_command(app, guide.guide, epilog=guide.EXAMPLES)
add_command(app, help.help, epilog=help.EXAMPLES)


def main() -> None:
    """Run the command line and exit with its status."""
    # Torch's import makes a million objects that stay: looking through them for garbage takes a third of a second.
    gc.set_threshold(1 << 20)
    interrupts.listen()
    _prepare_streams()
    _prepare_environment()
    try:
        # Alone, it says what there is; that is no wrong usage.
        status = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
        interrupts.check()
        status = flushed(status if isinstance(status, int) else 0)
    except KeyboardInterrupt:
        sys.exit(interrupts.status())
    except BrokenPipeError:
        leave_quietly()
    except SystemExit as exit:
        # Typer and rich turn a reader that went away into status 1.
        if not isinstance(exit.__context__, BrokenPipeError):
            raise
        leave_quietly()
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        sys.exit(output_failed(error))
    except Exception as error:
        sys.exit(_usage_error(error))
    finally:
        gc.freeze()  # or it would be looked for once more at exit
    sys.exit(status)


def _prepare_streams() -> None:
    """What goes to a stream that the shell has closed (``2>&-``) is dropped, and does not end up in another file.

    A full pipe that does not block is waited for. What an old locale cannot show, such as a histogram's blocks,
    becomes a question mark.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if hasattr(os, "get_blocking") and not os.get_blocking(1):
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(Patient(1)), sys.stdout.encoding, "replace")


def _prepare_environment() -> None:
    """Sizes of a terminal that are none are not looked at: rich would draw nothing, or fill the memory."""
    for name in ("COLUMNS", "LINES"):
        size = os.environ.get(name, "1")
        if not (size.isascii() and size.isdecimal() and 0 < int(size[:9]) <= _MOST_COLUMNS):
            del os.environ[name]


def _usage_error(error: Exception) -> int:
    """Say a usage error that Typer found, or whatever else happened outside a command, in one sentence."""
    if isinstance(error, RequestError):
        complain(str(error))
        return WRONG_REQUEST
    # Typer carries its own copy of Click since 0.26, and Click's classes before: both have these two.
    message, status = getattr(error, "format_message", None), getattr(error, "exit_code", None)
    if type(error).__name__ == "Abort":
        return interrupts.status()
    if message is None or status is None:
        if "--debug" in sys.argv:
            raise error
        complain(sentence_of(error))
        return DATA_FAILED
    complain(sentence_of_usage(error))
    return WRONG_REQUEST if status == 2 else int(status)
