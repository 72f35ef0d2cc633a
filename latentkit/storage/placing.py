"""Output files: written beside their place and moved into it when complete, so that no crash leaves half a file."""

import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from latentkit.errors import RequestError

# Never the suffix of a data file: a folder search must not find what is half written.
_PART_SUFFIX = ".part"
_SYNCS_AT_ONCE = 16


def is_stream(path: str) -> bool:
    """Whether ``path`` is written directly: ``-``, or something there that is no regular file (a pipe, a device)."""
    return path == "-" or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))


def check_place(path: str, *, overwrite: bool) -> None:
    """Refuse, before any work, an output that cannot be placed; raises ``RequestError``."""
    if is_stream(path):
        return
    if os.path.isdir(path):
        raise RequestError(f"{path}: is a folder; give the name of a file for the output")
    if os.path.lexists(path) and not overwrite:
        raise RequestError(f"{path}: exists already; add --overwrite to replace it, or choose another -o")
    folder = os.path.dirname(path) or "."
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise RequestError(f"{path}: {folder} is a file, not a folder")


class Placement:
    """A file written beside its place: ``commit_all`` moves it there, ``discard`` leaves what was there before."""

    def __init__(self, path: str, *, overwrite: bool) -> None:
        self.overwrite = overwrite
        self.path = os.path.realpath(path) if overwrite else os.path.abspath(path)
        folder, name = os.path.split(self.path)
        os.makedirs(folder, exist_ok=True)
        self.descriptor, self._part = tempfile.mkstemp(prefix=f".{name[:100]}.", suffix=_PART_SUFFIX, dir=folder)

    def sync(self) -> None:
        os.fchmod(self.descriptor, _mode(self.path))
        os.fsync(self.descriptor)

    def move(self) -> None:
        _move(self._part, self.path, overwrite=self.overwrite)
        os.close(self.descriptor)

    def discard(self) -> None:
        with suppress(OSError):
            os.close(self.descriptor)
        with suppress(OSError):
            os.unlink(self._part)


def commit_all(placements: Sequence[Placement]) -> None:
    """Sync files to disk, all at once since a disk takes many as quickly as one, then move each into its place."""
    if len(placements) > 1:
        with ThreadPoolExecutor(min(len(placements), _SYNCS_AT_ONCE)) as pool:
            list(pool.map(Placement.sync, placements))
    else:
        placements[0].sync()
    for placement in placements:
        placement.move()


@contextmanager
def placed(path: str, *, overwrite: bool = False) -> Iterator[int]:
    """A file descriptor to write ``path`` through; on success its data is synced and moved into place.

    When the body fails or is interrupted, what was at ``path`` stays as it was. Folders on the way are made.
    """
    if is_stream(path):
        descriptor = os.dup(sys.stdout.fileno()) if path == "-" else os.open(path, os.O_WRONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
        return
    placement = Placement(path, overwrite=overwrite)
    try:
        yield placement.descriptor
        commit_all([placement])
    except BaseException:
        placement.discard()
        raise


def _move(part: str, path: str, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(part, path)
        return
    try:
        # Unlike a rename, a link fails when another run has placed its output meanwhile.
        os.link(part, path)
    except FileExistsError:
        raise RequestError(f"{path}: appeared while this run was writing it; nothing was replaced") from None
    except OSError:
        # Some file systems have no hard links.
        os.rename(part, path)
    else:
        os.unlink(part)


def _mode(path: str) -> int:
    """The permissions of what is replaced, or those that a new file gets."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
