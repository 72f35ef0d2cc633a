"""Files that cannot be processed: the first one ends a run, unless such are to be passed over and listed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from latentkit.errors import LatentkitError, unreadable


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file was passed over: ``kind`` in a word, ``message`` in a sentence; where in it, as far as is known."""

    file: str
    tensor: str | None
    index: int | None
    kind: str
    message: str


class Failures:
    """The files passed over so far, by path, each with the first reason; strict unless ``keep_going``.

    What one file of many may cause goes through ``add`` or ``passing_over``; both raise the error in a strict run.
    """

    def __init__(self, *, keep_going: bool = False) -> None:
        self.keep_going = keep_going
        self.found: dict[str, Failure] = {}

    def __contains__(self, path: str) -> bool:
        return path in self.found

    def add(self, path: str, error: LatentkitError, *, tensor: str | None = None) -> None:
        """Pass over the file at ``path``, because of ``error`` (in ``tensor``, unless it says another)."""
        if not self.keep_going:
            try:
                raise error
            finally:
                # Its traceback holds this frame: it would hold all that the run holds, as its progress bar.
                del error
        if path not in self.found:
            self.found[path] = Failure(path, error.tensor or tensor, error.index, error.kind, str(error))

    @contextmanager
    def passing_over(self, path: str) -> Iterator[None]:
        """The body is about the file at ``path``: an error in it passes over that."""
        try:
            yield
        except LatentkitError as error:
            self.add(path, error)
        except OSError as error:
            self.add(path, unreadable(error.filename or path, error))
