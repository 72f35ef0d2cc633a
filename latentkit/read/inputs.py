"""Arguments of the command line -> files to read, each with the name that says where it stands.

An argument is a file, a folder, a glob, a Hugging Face ``*.safetensors.index.json``, ``@list.txt``, or ``@-`` for a
list on standard input.
"""

import codecs
import fnmatch
import glob
import json
import os
import re
import stat
import sys
import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from latentkit.errors import DataError, RequestError
from latentkit.read.header import CONTAINERS
from latentkit.text import near

SUFFIX = ".safetensors"
#: What a search of folders takes; a zip file may hold anything, so it is to be named.
SEARCHED = tuple(suffix for suffix in CONTAINERS if suffix != ".zip")
INDEX_SUFFIX = ".safetensors.index.json"
# Bytes of an index and of a list that are read: a device has no end.
_MOST_INDEX, _MOST_LIST = 64 << 20, 256 << 20
# What is read of a list at once, more than a path has.
_PIECE = 1 << 20

_OTHERS = ", ".join(SEARCHED[1:])

# Links to folders that a search follows, at most: folders full of links to each other have names without end.
_MOST_LINKS = 10_000

#: What tells one folder from another, and from those it lies in: its own (device, inode), and theirs.
_Chain = tuple[tuple[int, int], "_Chain"] | None


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read.

    ``name`` is its path relative to ``root``, NFC with ``/``: what its noise, its mirrored output and its partner
    in another folder go by. ``searched`` says that a folder search or a glob found it, not the user. ``index`` is
    the index.json that names it, if one does.
    """

    path: str
    name: str
    root: str
    searched: bool
    index: str | None = None


class Inputs(list[InputFile]):
    """Files to read; ``unreadable`` are links and folders, each with the reason, that no search could look into.

    ``others``: what a search found of other containers beside safetensors, for where those are no input.
    """

    unreadable: tuple[str, ...] = ()
    others: tuple[InputFile, ...] = ()


def find_inputs(arguments: Iterable[str], *, relative_to: str | None = None) -> Inputs:
    """List the files that ``arguments`` stand for, in the order given; folders and globs sorted.

    Raises ``RequestError`` for an argument that matches no file, or a file that is not under ``relative_to``.
    """
    unreadable: list[str] = []
    others: list[InputFile] = []
    found = Inputs(file for argument in arguments for file in _expand(argument, unreadable, others))
    if relative_to is not None:
        root = os.path.abspath(relative_to)
        found = Inputs(_rooted(file, root) for file in found)
        others = [_rooted(file, root) for file in others]
    found.unreadable, found.others = tuple(unreadable), tuple(others)
    return found


def given_twice(files: Sequence[InputFile]) -> tuple[str, ...]:
    """The paths of files that arguments name more than once, as a folder and a glob in it do."""
    # Below one root one file has one name, and most often there is no more to be looked at.
    if len({file.root for file in files}) == 1 and len({file.name for file in files}) == len(files):
        return ()
    counts = Counter(os.path.abspath(file.path) for file in files)
    return tuple(os.path.relpath(path) for path, count in counts.items() if count > 1)


def name_below(path: str, root: str) -> str:
    """The name of ``path`` relative to ``root``: NFC, ``/`` between folders, always encodable as UTF-8."""
    prefix = os.path.join(root, "")
    # Most paths are clean and below their root, and relpath is slow.
    clean = path.startswith(prefix) and "//" not in path and "/." not in path
    relative = path[len(prefix) :] if clean else os.path.relpath(path, root)
    relative = relative.replace(os.sep, "/")
    if relative.isascii():
        return relative
    # A name that is not UTF-8 reaches Python with lone surrogates, which no metadata can hold.
    relative = os.fsencode(relative).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", relative)


def _rooted(file: InputFile, root: str) -> InputFile:
    absolute = os.path.abspath(file.path)
    if os.path.commonpath([absolute, root]) != root:
        raise RequestError(
            f"{file.path}: not inside {root}, the folder of --relative-to; give a folder that holds every input"
        )
    return InputFile(file.path, name_below(absolute, root), root, file.searched, file.index)


def _expand(argument: str, unreadable: list[str], others: list[InputFile]) -> Iterator[InputFile]:
    if os.path.lexists(argument):
        yield from _existing(argument, unreadable, others)
    elif argument.startswith("@"):
        for line in _read_list(argument[1:]):
            if not os.path.lexists(line):
                raise RequestError(f"{line}: no such file (named by {argument})")
            yield from _existing(line, unreadable, others)
    elif glob.has_magic(argument):
        yield from _matching(argument, unreadable, others)
    else:
        raise RequestError(f"{argument}: no such file or folder{near(argument, _beside(argument))}")


def _existing(path: str, unreadable: list[str], others: list[InputFile]) -> Iterator[InputFile]:
    if os.path.isdir(path):
        found = _preferred(_search(path, unreadable), path, others)
        if not found:
            zips = sorted(glob.glob(os.path.join(glob.escape(path), "*.zip")))
            named = f"; a zip file is to be named: {zips[0]}" if zips else ""
            raise RequestError(f"{path}: no {SUFFIX} file in this folder, nor {_OTHERS}{named}{_without(unreadable)}")
        yield from found
    elif path.endswith(INDEX_SUFFIX):
        root = os.path.dirname(path) or "."
        for shard in _index_files(path):
            if not os.path.exists(shard):
                raise RequestError(f"{shard}: no such file (named by {path})")
            yield InputFile(shard, name_below(shard, root), root, searched=False, index=path)
    else:
        root = os.path.dirname(path) or "."
        yield InputFile(path, name_below(path, root), root, searched=False)


def _search(folder: str, unreadable: list[str]) -> Iterator[str]:
    """Every visible file of tensors below ``folder``: links are followed, but not to a folder that they lie in."""
    waiting: deque[tuple[str, _Chain]] = deque([(folder, None)])
    links = 0
    while waiting:
        place, above = waiting.popleft()
        try:
            chain = (_identity(os.stat(place)), above)
            with os.scandir(place) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            if above is None:
                raise
            unreadable.append(f"{place} ({error.strerror})")
            continue
        for entry in visible:
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.is_symlink():
                try:
                    status = os.stat(entry.path)
                except OSError as error:
                    unreadable.append(f"{entry.path} ({error.strerror})")
                    continue
                is_folder = stat.S_ISDIR(status.st_mode)
                links += is_folder
                if is_folder and _lies_in(_identity(status), chain):
                    continue
            if links > _MOST_LINKS:
                raise RequestError(
                    f"{folder}: holds more than {_MOST_LINKS:,} links to folders, or fewer that lead to each other; "
                    f"name the folders themselves"
                )
            if is_folder:
                waiting.append((entry.path, chain))
            elif entry.name.endswith(SEARCHED):
                yield entry.path


def _preferred(paths: Iterable[str], root: str, others: list[InputFile]) -> list[InputFile]:
    """The safetensors files among ``paths``, or all where there is none; sorted. The rest goes to ``others``."""
    found = [InputFile(path, name_below(path, root), root, searched=True) for path in sorted(paths)]
    preferred = [file for file in found if file.path.endswith(SUFFIX)]
    if 0 < len(preferred) < len(found):
        others += [file for file in found if not file.path.endswith(SUFFIX)]
    return preferred or found


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _lies_in(folder: tuple[int, int], chain: _Chain) -> bool:
    while chain is not None:
        if chain[0] == folder:
            return True
        chain = chain[1]
    return False


def _without(unreadable: list[str]) -> str:
    return f"; cannot be read: {unreadable[0]}" if unreadable else ""


def _matching(pattern: str, unreadable: list[str], others: list[InputFile]) -> Iterable[InputFile]:
    root = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    root = os.path.dirname(root) or "."
    suffixes = tuple(CONTAINERS)
    paths = (path for path in _glob(pattern, unreadable) if path.endswith(suffixes) and os.path.isfile(path))
    found = _preferred(paths, root, others)
    if not found:
        raise RequestError(f"{pattern}: no {SUFFIX} file matches, nor {_OTHERS}{_without(unreadable)}")
    return found


def _glob(pattern: str, unreadable: list[str]) -> Iterable[str]:
    """What ``glob.glob`` gives; below a ``**``, where it would follow links in circles, folders are searched."""
    parts = pattern.split("/")
    if "**" not in parts:
        return glob.glob(pattern)
    place = parts.index("**")
    above, below = "/".join(parts[:place]), parts[place:]
    folders = glob.glob(above + "/") if place else [""]
    return (
        path
        for folder in folders
        for path in _search(folder or ".", unreadable)
        if _fits(os.path.relpath(path, folder or ".").split(os.sep), below)
    )


def _fits(names: list[str], patterns: list[str]) -> bool:
    """Whether a relative path fits a pattern, name by name; ``**`` stands for any number of names."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_fits(names[skipped:], patterns[1:]) for skipped in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


def _index_files(path: str) -> list[str]:
    """The shards an index.json names, in order of first appearance."""
    try:
        with open(path, "rb") as file:
            weight_map = json.loads(file.read(_MOST_INDEX))["weight_map"]
        names = list(dict.fromkeys(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f'{path}: not an index of safetensors shards: it needs a "weight_map" of key to file'
        ) from error
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f'{path}: its "weight_map" names no files')
    for name in names:
        # Outputs mirror these names: none may lead out of the folder they are written to.
        if os.path.isabs(name) or ".." in re.split(r"[/\\]", name):
            raise DataError(f"{path}: names {name!r}, which is not inside the index's own folder; list it in an @file")
    return [os.path.join(os.path.dirname(path), name) for name in names]


def _read_list(source: str) -> list[str]:
    """Paths from a list: separated by NULs where there are any (``find -print0``), else by newlines."""
    try:
        with stdin_bytes("@-") if source == "-" else open(source, "rb") as file:
            paths = [os.fsdecode(line) for line in _lines(file, source) if line.strip()]
    except FileNotFoundError:
        raise RequestError(f"@{source}: no such list of files") from None
    if not paths:
        raise RequestError(f"@{source}: the list is empty")
    return paths


def _lines(file: BinaryIO, source: str) -> Iterator[bytes]:
    """Those of a list that are not empty, read piece by piece: one without end is none."""
    data = file.read(_PIECE)
    ends = b"\0" if b"\0" in data else b"\n"
    data, rest, length = data.removeprefix(codecs.BOM_UTF8), b"", 0
    while data:
        whole, _, rest = data.rpartition(ends)
        lines = re.findall(b"[^%b]+" % ends, whole)
        yield from lines if ends == b"\0" else (line.removesuffix(b"\r") for line in lines)
        length += _PIECE
        if length > _MOST_LIST:
            raise RequestError(f"@{source}: a list of over {_MOST_LIST >> 20} MiB; name folders, or give several lists")
        if len(rest) >= _PIECE:
            raise RequestError(f"@{source}: no list of paths: a line has over {_PIECE >> 20} MiB")
        more = file.read(_PIECE)
        data = rest + more if more else b""
    yield rest


def stdin_bytes(argument: str) -> BinaryIO:
    """Standard input, for ``argument``; raises ``RequestError`` where the shell has closed it."""
    if sys.stdin is None:
        raise RequestError(f"{argument}: standard input is closed; give a file, or a pipe")
    return sys.stdin.buffer


def _beside(path: str) -> list[str]:
    """What the folder of ``path`` holds."""
    folder = os.path.dirname(path)
    with suppress(OSError):
        return [os.path.join(folder, name) for name in os.listdir(folder or ".")]
    return []
