"""Files to be written: what goes into each, and from which input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentkit.storage.choice import Posterior
from latentkit.storage.header import Header, TensorInfo


@dataclass(frozen=True, slots=True)
class Output:
    """A file to be written: latents of each posterior under its key, and tensors carried over from the input."""

    path: str
    stream: str
    latents: Mapping[str, Posterior]
    carried: Sequence[TensorInfo]

    @property
    def header(self) -> Header:
        """The header of the input."""
        return next(iter(self.latents.values())).header
