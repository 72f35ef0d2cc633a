"""Whether outputs can be placed, and lose nothing: seen before any work."""

import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from latentkit.errors import RequestError
from latentkit.write.placing import descriptor_of, is_stream

# What a name may have where the file system does not say.
_LONGEST_NAME = 255

# What ends a file's name; in ``run-v1.5`` it is a version.
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{,11}")

_SHARD = re.compile(r"(.+-)(\d+-of-\d+)(\.\w+)")


def is_folder(path: str, suffixes: Sequence[str]) -> bool:
    """Whether ``path`` is a folder for outputs: it is there, or a slash ends it, or it has no suffix.

    Raises ``RequestError`` for a suffix that is none of ``suffixes``, which are those of files that can be written.
    """
    if path.endswith(("/", os.sep)) or os.path.isdir(path):
        return True
    suffix = os.path.splitext(path)[1]
    if suffix not in suffixes and _SUFFIX.fullmatch(suffix):
        raise RequestError(f"{path}: {suffix} is not written; end it with {', '.join(suffixes)}, or / for a folder")
    return suffix not in suffixes


def refuse_one_place(place: str, one: str, other: str) -> NoReturn:
    """Raise ``RequestError``: the outputs of two inputs have one name."""
    apart = os.path.dirname(one) != os.path.dirname(other)
    way = "give their common parent folder" if apart else "give one of them"
    raise RequestError(
        f"{one} and {other} would both be written to {place}; {way}, or write each to a folder of its own"
    )


#: What is said of a file that ``of_another_set`` finds.
OF_ANOTHER_SET = "of another number of files: delete those, or its rows would be there twice"


def of_another_set(shards: Sequence[str], known: Iterable[str] = ()) -> str | None:
    """A file beside ``shards``, none of the ``known``, that is one of another number of them: it has the same rows."""
    folder, ours = os.path.split(shards[0])
    match, names = _SHARD.fullmatch(ours), {os.path.basename(path) for path in (*shards, *known)}
    if match is None or not os.path.isdir(folder or "."):
        return None
    there = sorted(set(os.listdir(folder or ".")) - names)
    others = (name for name in there if (other := _SHARD.fullmatch(name)) and other.group(1, 3) == match.group(1, 3))
    return next((os.path.join(folder, name) for name in others), None)


def check_outputs(paths: Iterable[str | None], *, overwrite: bool, read: Iterable[str] = ()) -> None:
    """Refuse outputs that cannot be written, that are one file, or that are among the files ``read``.

    A file is known by what it is, whatever the name it is reached by; None is an output not asked for. Raises
    ``RequestError``.
    """
    places: dict[tuple[object, object], str] = {}
    folders: dict[str, tuple[str, int]] = {}
    exists = False
    for path in paths:
        if path is None:
            continue
        file = _file_at(path)
        exists |= file is not None
        if is_stream(path):
            place = file or _stream_at(path)
        else:
            _check_file(path, overwrite=overwrite)
            folder, name = os.path.split(os.path.abspath(path))
            if folder not in folders:
                folders[folder] = _check_folder(path, folder)
            real, longest = folders[folder]
            if len(os.fsencode(name)) > longest:
                raise RequestError(f"{path}: a name may have {longest} bytes there; choose a shorter one")
            place = file or (real, name)
        if place in places and path != os.devnull:
            raise RequestError(f"{_shown(path)}: is named for two outputs; give each its own")
        places[place] = path
    # Where none of them is there yet, none is read.
    for other in read if exists else ():
        found = _regular(os.stat, other)
        if found is not None and found in places:
            path = places[found]
            also = "" if path == other else f" ({other})"
            raise RequestError(f"{_shown(path)}: is an input itself{also}; choose another output")


def _file_at(path: str) -> tuple[int, int] | None:
    """The file that is at ``path``, whatever leads to it; None where nothing is, or a pipe or a device."""
    descriptor = descriptor_of(path)
    return _regular(os.stat, path) if descriptor is None else _regular(os.fstat, descriptor)


def _regular(status_of: Callable[[Any], os.stat_result], what: str | int) -> tuple[int, int] | None:
    try:
        status = status_of(what)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _stream_at(path: str) -> tuple[object, object]:
    descriptor = descriptor_of(path)
    if descriptor is None:
        return "stream", os.path.realpath(path)
    if descriptor > 2:
        try:
            os.fstat(descriptor)
        except OSError:
            raise RequestError(f"{path}: is not open, so nothing can be written to it; choose another output") from None
    return "descriptor", descriptor


def _shown(path: str) -> str:
    return "standard output" if path == "-" else path


def _check_file(path: str, *, overwrite: bool) -> None:
    if not path or "\0" in path:
        raise RequestError(f"{path!r} names no file; give -o the name of a file")
    if os.path.isdir(path):
        raise RequestError(f"{path}: is a folder; give the name of a file for the output")
    if os.path.lexists(path) and not overwrite:
        raise RequestError(f"{path}: exists already; add --overwrite to replace it, or choose another output")
    if os.path.exists(path) and not os.path.isfile(path):
        raise RequestError(f"{path}: is neither a file nor a pipe; choose another output")


def _check_folder(path: str, folder: str) -> tuple[str, int]:
    """Where ``folder`` really is, and how long names may be in it."""
    there = folder
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise RequestError(
            f"{path}: {there} is not a folder, so nothing can be written below it; choose another output"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(f"{path}: the folder {there} cannot be written to; choose another output")
    longest = _LONGEST_NAME
    with suppress(OSError, ValueError, AttributeError):
        longest = os.pathconf(there, "PC_NAME_MAX")
    if any(len(os.fsencode(name)) > longest for name in folder.split(os.sep)):
        raise RequestError(f"{path}: a folder's name may have {longest} bytes there; choose a shorter one")
    return os.path.realpath(folder), longest
