"""What can go wrong, by whose hand it is: the request's or the data's."""

import errno

# What the machine lacks is no file's fault.
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class LatentkitError(Exception):
    """One sentence for the user: what is wrong, where, and what to do.

    ``kind`` says in a word what ails the file it is about: it is ``missing``, ``unreadable``, ``damaged``, has
    ``changed`` meanwhile, is ``nonfinite``, or ``wrong``: another than was asked for. ``tensor`` and ``index`` say
    where in it.
    """

    def __init__(
        self, sentence: str, *, kind: str = "wrong", tensor: str | None = None, index: int | None = None
    ) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.tensor = tensor
        self.index = index


class RequestError(LatentkitError):
    """Arguments, file listing or headers rule the request out, before any tensor is read."""


class DataError(LatentkitError):
    """The content of a file cannot be processed."""


def unreadable(path: str, error: OSError) -> DataError:
    """The error that says that the file at ``path`` cannot be read; raises ``error`` where that is not its fault."""
    if error.errno in _SHORTAGES:
        error.filename = path
        raise error
    kind = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
    return DataError(f"{path}: {error.strerror or error}", kind=kind)
