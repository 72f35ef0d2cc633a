"""What a file's own metadata says of how its tensors are to be read."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from latentkit.errors import RequestError
from latentkit.posterior.layout import check_layout
from latentkit.posterior.parameterization import PARAMETERIZATIONS
from latentkit.read.header import Header

#: The metadata entry that every file of drawn latents bears.
RECIPE_ENTRY = "noise_recipe"

#: The metadata entry that every state of stats bears.
STATE_ENTRY = "latentkit_state"

KINDS = (*PARAMETERIZATIONS, "none")


@dataclass(frozen=True, slots=True)
class Said:
    """Entries that mean something here, where no flag goes before them; and sentences on those passed over."""

    layout: str | None = None
    parameterization: str | None = None
    remarks: tuple[str, ...] = ()


_NOTHING = Said()


def is_drawn(header: Header) -> bool:
    """Whether latentkit drew what the file holds."""
    return RECIPE_ENTRY in header.metadata


def is_state(header: Header) -> bool:
    """Whether the file is what stats counted, with nothing to be read as moments or latents."""
    return STATE_ENTRY in header.metadata


def said_in(header: Header, *, layout: str | None, parameterization: str | None) -> Said:
    """What the metadata says beside these flags; another program's words mean nothing, and are passed over."""
    if not header.metadata or is_drawn(header):
        return _NOTHING
    remarks: list[str] = []
    return Said(
        _said(header, "layout", _is_layout_here(header), layout, remarks),
        _said(header, "parameterization", header.metadata.get("parameterization") in KINDS, parameterization, remarks),
        tuple(remarks),
    )


def _said(header: Header, name: str, is_known: bool, flag: str | None, remarks: list[str]) -> str | None:
    value = header.metadata.get(name)
    if value is None or value == flag:
        return None
    if not is_known:
        remarks.append(f"its metadata says {name} {value[:40]!r}, which means nothing here: passed over")
        return None
    if flag is not None:
        remarks.append(f"--{name} {flag} goes before its metadata, which says {value}")
        return None
    return value


def _is_layout_here(header: Header) -> bool:
    """Whether its layout is one, and of as many axes as a tensor of the file has."""
    try:
        axes = len(check_layout(header.metadata.get("layout", "")))
    except ValueError:
        return False
    return any(len(tensor.shape) == axes for tensor in header.tensors.values() if tensor.is_float)


def factors_in(header: Header) -> tuple[float | None, float | None]:
    """diffusers' ``scaling_factor`` and ``shift_factor`` as the metadata has them; None for what is none."""
    return _number(header, "scaling_factor") or None, _number(header, "shift_factor")


def common_factors(headers: Iterable[Header]) -> tuple[float | None, float | None]:
    """The factors that the metadata of files has, which must agree.

    Raises ``RequestError`` where they do not.
    """
    first: tuple[str, tuple[float | None, float | None]] | None = None
    for header in headers:
        factors = factors_in(header)
        if first is None:
            first = header.path, factors
        elif factors != first[1]:
            raise RequestError(
                f"{first[0]} and {header.path}: their metadata says other factors (scaling, shift: {first[1]} and "
                f"{factors}); say --scaling-factor and --shift-factor for all"
            )
    return (None, None) if first is None else first[1]


def _number(header: Header, name: str) -> float | None:
    try:
        value = float(header.metadata[name])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None
