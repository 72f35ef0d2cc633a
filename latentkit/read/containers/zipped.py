"""The directory of a zip file: where the bytes of its members are. Members are never unpacked."""

import io
import os
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from latentkit.errors import DataError

#: A longer directory is refused: it is read whole. There is room for two million images in it.
_MOST_DIRECTORY_BYTES = 256 << 20

# The local header in front of a member: 30 bytes, of which the last four are the lengths of a name and of an extra
# field that follow.
_LOCAL_HEADER = 30


class Member(NamedTuple):
    """A member stored as it is: its bytes are those of the file from ``offset`` on, and begin with ``start``."""

    name: str
    offset: int
    size: int
    start: bytes


class _Bounded(io.FileIO):
    """A file of which no more is read at once than a directory may take."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MOST_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory is over {_MOST_DIRECTORY_BYTES >> 20} MiB long")
        return super().read(-1 if size is None else size)


def directory(path: str, descriptor: int) -> tuple[list[zipfile.ZipInfo], str]:
    """The members as the directory has them, and its digest; raises ``DataError`` where it is no sound zip file."""
    try:
        with _Bounded(descriptor, closefd=False) as file, zipfile.ZipFile(file) as archive:
            # Of two members of one name the last counts, for NumPy as for unzip.
            entries = list(archive.NameToInfo.values())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: not a zip file, as its suffix says, or a damaged one ({str(error) or 'cut short'})",
            kind="damaged",
        ) from error
    digest = sha256()
    for entry in entries:
        digest.update(f"{entry.filename}\0{entry.file_size}\0{entry.CRC}\0".encode(errors="surrogateescape"))
    return entries, digest.hexdigest()


def stored(
    path: str, descriptor: int, entries: list[zipfile.ZipInfo], file_size: int, head: int, advice: str
) -> Iterator[Member]:
    """Where the members are, each with its first ``head`` bytes.

    Raises ``DataError`` for one that is packed or encrypted, with ``advice``, or is not where it should be.
    """
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise DataError(
                f"{path}: its member {entry.filename!r} is compressed, so it cannot be read in place; {advice}"
            )
        # An extra field rarely takes more than 20 bytes, but in torch's files, which align their data to 64.
        guess = _LOCAL_HEADER + len(entry.orig_filename.encode(errors="replace")) + 64
        start = _read(descriptor, entry.header_offset, guess + head)
        skip = _LOCAL_HEADER + int.from_bytes(start[26:28], "little") + int.from_bytes(start[28:30], "little")
        if len(start) < skip + head:
            start = _read(descriptor, entry.header_offset, skip + head)
        offset = entry.header_offset + skip
        if start[:4] != b"PK\3\4" or entry.compress_size != entry.file_size or offset + entry.file_size > file_size:
            raise DataError(
                f"{path}: damaged: its member {entry.filename!r} is not where its directory says; copy it again",
                kind="damaged",
            )
        yield Member(entry.filename, offset, entry.file_size, start[skip : skip + min(head, entry.file_size)])


def _read(descriptor: int, offset: int, count: int) -> bytes:
    if offset < 0:  # by a damaged directory
        return b""
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, count)
