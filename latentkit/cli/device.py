"""``--device``: where the arithmetic runs."""

from latentkit.cli.options import Messages
from latentkit.cli.screen import detail
from latentkit.errors import RequestError


def check_device_name(name: str) -> None:
    """Refuse a device that nobody has, before torch is imported."""
    kind, _, number = name.partition(":")
    known = name in ("auto", "cpu", "mps") or (kind == "cuda" and (number.isdecimal() or name == "cuda"))
    if not known:
        raise RequestError(f"--device {name}: not a device; choose auto, cpu, cuda, cuda:N or mps")


def resolve_device(name: str, messages: Messages) -> str:
    """The torch device of ``--device``; ``auto`` is the CPU, whose tables keep up with any disk."""
    import torch

    if name.startswith("cuda"):
        present = torch.cuda.device_count() if torch.cuda.is_available() else 0
        wanted = int(name.partition(":")[2] or 0)
        if wanted >= present:
            raise RequestError(
                f"--device {name}: torch {torch.__version__} sees "
                + (f"{present} CUDA devices" if present else "no CUDA device")
                + "; use --device cpu, or leave --device out"
            )
    if name == "mps" and not torch.backends.mps.is_available():
        raise RequestError("--device mps: torch sees no Apple GPU here; use --device cpu, or leave --device out")
    device = "cpu" if name == "auto" else name
    detail(messages, f"device: {device}" + (" (chosen by auto)" if name == "auto" else ""))
    return device
