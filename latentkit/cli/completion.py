"""What a shell completes: keys of the files already typed, layouts, presets, conditions, devices."""

import os
import shlex
from contextlib import suppress

# A folder of thousands holds the same keys in each file.
_FILES = 3


def keys() -> list[str]:
    """The tensors of files that are on the command line; what only torch opens is passed over."""
    from latentkit.errors import LatentkitError
    from latentkit.read.containers.safetensors import keys_said
    from latentkit.read.header import container_of, read_header
    from latentkit.read.inputs import find_inputs

    found: dict[str, None] = {}
    for word in _words():
        path = os.path.expanduser(word)
        with suppress(LatentkitError, OSError, ValueError):
            for file in find_inputs([path])[:_FILES] if os.path.exists(path) else ():
                container = container_of(file.path) or "safetensors"
                if container != "pt":
                    quick = container == "safetensors"
                    found |= dict.fromkeys(keys_said(file.path) if quick else read_header(file.path).tensors)
    return list(found)


def _words() -> list[str]:
    """The command line: bash hands it over in one variable, zsh and fish in another."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    try:
        return shlex.split(line)[1:]
    except ValueError:
        return line.split()[1:]


def layouts() -> list[str]:
    return ["bchw", "bcthw", "bc", "bcl", "blc", "chw", "bbchw"]


def presets() -> list[str]:
    from latentkit.read.presets import PRESETS

    return [preset.name for preset in PRESETS]


def conditions() -> list[str]:
    """Names of figures, which conditions begin with: those of the command that is typed."""
    from latentkit.health.figures import COMPARED, FIGURES
    from latentkit.health.row_figures import ROW_FIGURES

    return list(ROW_FIGURES) if _words()[:1] in (["kl"], ["nll"]) else [*FIGURES, *COMPARED]


def devices() -> list[str]:
    return ["auto", "cpu", "cuda"]


def topics() -> list[str]:
    from importlib.resources import files

    return sorted(page.name.removesuffix(".md") for page in files("latentkit").joinpath("guide").iterdir())


#: What completes the options of these names.
BY_NAME = {
    "key": keys, "mean_key": keys, "logvar_key": keys, "columns": keys, "by": keys, "carry": keys,
    "layout": layouts, "preset": presets, "fail_if": conditions, "device": devices,
}  # fmt: skip
