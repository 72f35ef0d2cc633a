"""Output files: written beside their place and moved into it when complete, so that no crash leaves half a file."""

import atexit
import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from latentkit.errors import RequestError
from latentkit.write.safetensors import write_at

# Never the suffix of a data file: a folder search must not find what is half written.
_PART_SUFFIX = ".part"
_LONGEST_NAME = 200  # bytes; file systems allow 255, and the temporary name adds some
_SYNCS_AT_ONCE = 16
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOSE_ON_EXEC
_STANDARD = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}
# What shares answer on which files have no mode of their own, or that have no sync of a folder.
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES}

# Temporary files, and folders made for outputs: noted before they are made, so that nothing of them stays behind
# whatever interrupts the run.
_parts: set[str] = set()
_made: set[str] = set()


def under_way() -> bool:
    """Whether an output is being written or placed."""
    return bool(_parts)


def descriptor_of(path: str) -> int | None:
    """The open descriptor that ``path`` stands for: ``-``, ``/dev/stdout``, ``/dev/fd/3``."""
    if path in _STANDARD:
        return _STANDARD[path]
    number = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d{1,9})", path)
    return int(number[1]) if number else None


def is_stream(path: str) -> bool:
    """Whether ``path`` is written directly: an open descriptor, or what is there is a pipe, a socket or a terminal."""
    if descriptor_of(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def open_stream(path: str) -> int:
    """A file descriptor to write a stream through; the caller closes it."""
    descriptor = descriptor_of(path)
    if descriptor is None:
        return os.open(path, os.O_WRONLY | _CLOSE_ON_EXEC)
    return os.dup(sys.stdout.fileno() if descriptor == 1 else descriptor)


#: What a file is written from, one after the other.
Pieces = Iterable[bytes | memoryview]


class Placement:
    """A file written beside its place: ``commit_all`` moves it there, ``discard`` leaves what was there before.

    A link in its place is replaced by the file, and never followed: what it leads to is no output.
    """

    def __init__(self, path: str, *, overwrite: bool) -> None:
        self.overwrite = overwrite
        self.path = os.path.abspath(path)
        self._part = _beside(self.path)
        self._open = False
        try:
            with _naming(self.path):
                make_folder(os.path.dirname(self.path))
                # What replaces a file that is private is private from its first byte.
                mode = 0o666 if _mode_of(self.path) is None or not overwrite else 0o600
                self.descriptor = os.open(self._part, _NEW, mode)
                self._open = True
        except BaseException:
            self.discard()
            raise

    def write(self, offset: int, data: memoryview) -> None:
        """Write at ``offset``; threads may do so at once."""
        with self.opened() as descriptor:
            write_at(descriptor, offset, data)

    def rest(self) -> None:
        """Close the file, but while it is written to or synced: a process may have only so many open."""
        # Once only: another file may have the number by the second time.
        if self._open:
            self._open = False
            with suppress(OSError):
                os.close(self.descriptor)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor to write, and read again, through; an error in the body names the output."""
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
        with self.opened() as descriptor:
            # A new file has the mode of any new file; one that is replaced hands its own on.
            mode = _mode_of(self.path)
            if self.overwrite and mode is not None:
                with _tolerating():
                    os.fchmod(descriptor, mode)
            with _tolerating():
                os.fsync(descriptor)

    def move(self) -> None:
        with _naming(self.path):
            _move(self._part, self.path, overwrite=self.overwrite)
        self.rest()

    def discard(self) -> None:
        """Leave what was there before; harmless when the file is in its place already."""
        self.rest()
        _remove(self._part)


def commit_all(placements: Sequence[Placement]) -> None:
    """Sync files to disk, all at once since a disk takes many as quickly as one, then move each into its place."""
    _sync_all(placements)
    for placement in placements:
        placement.move()
    _sync_folders(placements)


def place_together(outputs: Mapping[str, Pieces], *, overwrite: bool) -> None:
    """Write files, each of its pieces, and move them into place: all of them, or none."""
    with ExitStack() as discarding:
        placements = []
        for path, pieces in outputs.items():
            placement = Placement(path, overwrite=overwrite)
            discarding.callback(placement.discard)
            end = 0
            for piece in pieces:
                placement.write(end, memoryview(piece))
                end += len(piece)
            placements.append(placement)
        _sync_all(placements)
        with ExitStack() as undoing:
            for placement in placements:
                old = discarding.enter_context(_kept(placement.path))
                placement.move()
                undoing.callback(_put_back, old, placement.path)
            undoing.pop_all()
        _sync_folders(placements)


@contextmanager
def placed(path: str, *, overwrite: bool = False) -> Iterator[int]:
    """A file descriptor to write ``path`` through; on success its data is synced and moved into place.

    When the body fails or is interrupted, what was at ``path`` stays as it was. Folders on the way are made.
    """
    if is_stream(path):
        with _naming("standard output" if path == "-" else path):
            descriptor = open_stream(path)
            try:
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


def _sync_all(placements: Sequence[Placement]) -> None:
    if len(placements) > 1:
        from concurrent.futures import ThreadPoolExecutor

        # Where the system allows no more threads, they are synced one by one.
        with suppress(RuntimeError), ThreadPoolExecutor(min(len(placements), _SYNCS_AT_ONCE)) as pool:
            list(pool.map(Placement.sync, placements))
            return
    for placement in placements:
        placement.sync()


def _sync_folders(placements: Sequence[Placement]) -> None:
    """A file is found again after a power cut when its folder is on disk too."""
    for folder in {os.path.dirname(placement.path) for placement in placements}:
        # It is in place by now: whatever fails here fails nothing.
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | _CLOSE_ON_EXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _move(part: str, path: str, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(part, path)
        _parts.discard(part)
        return
    try:
        # Unlike a rename, a link fails when another run has placed its output meanwhile.
        os.link(part, path)
    except FileExistsError:
        raise _appeared(path) from None
    except OSError:
        _move_without_links(part, path)
    else:
        _unlink(part)


def _move_without_links(part: str, path: str) -> None:
    """Some file systems have no hard links: there a file without content, which one run alone can make, is replaced."""
    try:
        os.close(os.open(path, _NEW))
    except FileExistsError:
        raise _appeared(path) from None
    try:
        os.rename(part, path)
    except BaseException:
        os.unlink(path)
        raise
    _parts.discard(part)


def _appeared(path: str) -> RequestError:
    return RequestError(f"{path}: appeared while this run was writing it; nothing was replaced")


@contextmanager
def _kept(path: str) -> Iterator[str | None]:
    """Another name for the file at ``path``, or None where there is none."""
    old = _beside(path)
    try:
        os.link(path, old, follow_symlinks=False)
    except FileNotFoundError:
        yield None
    except OSError:
        # Without hard links there is no other name: what replaces the file stays.
        yield path
    else:
        yield old
    finally:
        _remove(old)


def _put_back(old: str | None, path: str) -> None:
    if old is None:
        os.unlink(path)
    else:
        os.replace(old, path)


def _mode_of(path: str) -> int | None:
    """The mode of the file at ``path``; a link has none of its own."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return None
    return stat.S_IMODE(mode) if stat.S_ISREG(mode) else None


def _beside(path: str) -> str:
    """A name for a temporary file beside ``path``, hidden and its own; it is noted."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{start_of(name)}.{secrets.token_hex(8)}{_PART_SUFFIX}")
    _parts.add(part)
    return part


def start_of(name: str) -> str:
    """What the name of a temporary file says of its output."""
    return os.fsencode(name)[:_LONGEST_NAME].decode("utf-8", "ignore")


def make_folder(folder: str) -> None:
    """Make a folder and those above it; they are removed again with the last temporary file in them."""
    if os.path.isdir(folder):
        return
    make_folder(os.path.dirname(folder))
    _made.add(folder)
    try:
        os.mkdir(folder)
    except FileExistsError:
        _made.discard(folder)
        if not os.path.isdir(folder):
            raise


def _unlink(part: str) -> None:
    try:
        os.unlink(part)
    except FileNotFoundError:
        pass
    except OSError:
        # It is tried once more at exit.
        return
    _parts.discard(part)


def _remove(part: str) -> None:
    """Remove a temporary file, and the folders made for it that are empty again."""
    _unlink(part)
    remove_empty(os.path.dirname(part))


def remove_empty(folder: str) -> None:
    """Remove a folder that was made for outputs, and those above it, where nothing came of them."""
    with suppress(OSError):
        while folder in _made or not os.path.lexists(folder):
            if folder in _made:
                os.rmdir(folder)
                _made.discard(folder)
            folder = os.path.dirname(folder)


@atexit.register
def _remove_all() -> None:
    for part in sorted(_parts):
        _remove(part)


if hasattr(os, "register_at_fork"):
    # What is there is the parent's.
    os.register_at_fork(after_in_child=_parts.clear)


@contextmanager
def _tolerating() -> Iterator[None]:
    """Go on where a file system has no such thing, which is no reason to fail a write."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


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
