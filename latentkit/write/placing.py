"""Output files: written beside their place and moved into it when complete, so that no crash leaves half a file."""

import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from latentkit.errors import RequestError
from latentkit.write.safetensors import write_at

# Never the suffix of a data file: a folder search must not find what is half written.
_PART_SUFFIX = ".part"
_LONGEST_NAME = 200  # bytes; file systems allow 255, and the temporary name adds some
_SYNCS_AT_ONCE = 16
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)
_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def is_stream(path: str) -> bool:
    """Whether ``path`` is written directly: standard output, or what is there is no regular file (a pipe, a device)."""
    return path in _STDOUT or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))


def open_stream(path: str) -> int:
    """A file descriptor to write a stream through; the caller closes it."""
    return os.dup(sys.stdout.fileno()) if path in _STDOUT else os.open(path, os.O_WRONLY)


def check_place(path: str, *, overwrite: bool, inputs: Iterable[str] = ()) -> None:
    """Refuse, before any work, an output that cannot be placed, or that is one of ``inputs``.

    Raises ``RequestError``.
    """
    if is_stream(path):
        return
    if os.path.isdir(path):
        raise RequestError(f"{path}: is a folder; give the name of a file for the output")
    if os.path.lexists(path) and not overwrite:
        raise RequestError(f"{path}: exists already; add --overwrite to replace it, or choose another -o")
    if os.path.exists(path) and any(os.path.exists(other) and os.path.samefile(path, other) for other in inputs):
        raise RequestError(f"{path}: is an input itself; choose another -o")
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise RequestError(f"{path}: {folder} is not a folder, so nothing can be written below it; choose another -o")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"{path}: the folder {folder} cannot be written to; choose another -o")


class Placement:
    """A file written beside its place: ``commit_all`` moves it there, ``discard`` leaves what was there before."""

    def __init__(self, path: str, *, overwrite: bool) -> None:
        self.overwrite = overwrite
        self.path = os.path.realpath(path) if overwrite else os.path.abspath(path)
        with _naming(self.path):
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            self.descriptor, self._part = _open_part(self.path)
            self._open = True

    def write(self, offset: int, data: memoryview) -> None:
        """Write at ``offset``; threads may do so at once."""
        with self._opened() as descriptor:
            write_at(descriptor, offset, data)

    def rest(self) -> None:
        """Close the file, but while it is written to or synced: a process may have only so many open."""
        # Once only: another file may have the number by the second time.
        if self._open:
            self._open = False
            with suppress(OSError):
                os.close(self.descriptor)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        with _naming(self.path):
            if self._open:
                yield self.descriptor
                return
            descriptor = os.open(self._part, os.O_RDWR | _CLOSE_ON_EXEC)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def sync(self) -> None:
        with self._opened() as descriptor:
            # A new file has the mode of any new file; one that is replaced hands its own on.
            with suppress(FileNotFoundError):
                os.fchmod(descriptor, stat.S_IMODE(os.stat(self.path).st_mode))
            os.fsync(descriptor)

    def move(self) -> None:
        with _naming(self.path):
            _move(self._part, self.path, overwrite=self.overwrite)
        self.rest()

    def discard(self) -> None:
        """Leave what was there before; harmless when the file is in its place already."""
        self.rest()
        with suppress(OSError):
            os.unlink(self._part)


def commit_all(placements: Sequence[Placement]) -> None:
    """Sync files to disk, all at once since a disk takes many as quickly as one, then move each into its place."""
    if len(placements) > 1:
        from concurrent.futures import ThreadPoolExecutor

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
        descriptor = open_stream(path)
        try:
            with _naming("standard output" if path == "-" else path):
                yield descriptor
        finally:
            os.close(descriptor)
        return
    placement = Placement(path, overwrite=overwrite)
    try:
        with _naming(path):
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


def _open_part(path: str) -> tuple[int, str]:
    """A new file beside ``path``, hidden and with a name of its own."""
    folder, name = os.path.split(path)
    start = os.fsencode(name)[:_LONGEST_NAME].decode("utf-8", "ignore")
    while True:
        part = os.path.join(folder, f".{start}.{secrets.token_hex(4)}{_PART_SUFFIX}")
        try:
            return os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOSE_ON_EXEC, 0o666), part
        except FileExistsError:
            continue


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Let an error of the operating system name the output, not a descriptor or a temporary file."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(_PART_SUFFIX):
            error.filename, error.filename2 = path, None
        raise
