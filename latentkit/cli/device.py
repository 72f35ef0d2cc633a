"""``--device``: where the arithmetic runs."""

from latentkit.cli.options import Messages
from latentkit.cli.screen import detail
from latentkit.device import device_called


def resolve_device(name: str, messages: Messages) -> str:
    """The torch device of ``--device``."""
    device = device_called(name)
    detail(messages, f"device: {device}" + (" (chosen by auto)" if name == "auto" else ""))
    return device
