"""Where the arithmetic runs: the names of devices, checked before torch is imported."""

import warnings

from latentkit.errors import RequestError


def check_device_name(name: str) -> None:
    """Refuse a device that nobody has."""
    kind, colon, number = name.partition(":")
    known = name in ("auto", "cpu", "cuda") or (kind == "cuda" and colon and _is_plain(number))
    if not known:
        raise RequestError(f"--device {name}: not a device; choose auto, cpu, cuda or cuda:N")


def _is_plain(number: str) -> bool:
    return number.isascii() and number.isdecimal() and str(int(number)) == number


def device_called(name: str) -> str:
    """The torch device; ``auto`` is the CPU, which keeps up with any disk, and needs no torch.

    Raises ``RequestError`` for a device that this machine has not.
    """
    device = "cpu" if name == "auto" else name
    if device != "cpu":
        import torch

        with warnings.catch_warnings(record=True) as said:
            # Of a driver that is too old, torch warns in several lines.
            warnings.simplefilter("always")
            present = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(name.partition(":")[2] or 0) >= present:
            sees = f"{present} CUDA devices" if present else "no CUDA device"
            why = f" ({str(said[0].message).partition('. ')[0]})" if said else ""
            raise RequestError(
                f"--device {name}: torch {torch.__version__} sees {sees}{why}; use --device cpu, or leave --device out"
            )
    return device
