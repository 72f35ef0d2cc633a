"""Arguments of the command line -> files to read, each with the name that says where it stands.

An argument is a file, a folder, a glob, a Hugging Face ``*.safetensors.index.json``, ``@list.txt``, or ``@-`` for a
list on standard input.
"""

import glob
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from latentkit.errors import DataError, RequestError

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read.

    ``name`` is its path relative to ``root``, NFC with ``/``: what its noise, its mirrored output and its partner
    in another folder go by. ``searched`` says that a folder search or a glob found it, not the user.
    """

    path: str
    name: str
    root: str
    searched: bool


def find_inputs(arguments: Iterable[str], *, relative_to: str | None = None) -> list[InputFile]:
    """List the files that ``arguments`` stand for, in the order given; folders and globs sorted.

    Raises ``RequestError`` for an argument that matches no file, or a file that is not under ``relative_to``.
    """
    found = [file for argument in arguments for file in _expand(argument)]
    if relative_to is None:
        return found
    root = os.path.abspath(relative_to)
    return [_rooted(file, root) for file in found]


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
    return InputFile(file.path, name_below(absolute, root), root, file.searched)


def _expand(argument: str) -> Iterator[InputFile]:
    if os.path.lexists(argument):
        yield from _existing(argument)
    elif argument.startswith("@"):
        for line in _read_list(argument[1:]):
            if not os.path.lexists(line):
                raise RequestError(f"{line}: no such file (named by {argument})")
            yield from _existing(line)
    elif glob.has_magic(argument):
        yield from _matching(argument)
    else:
        raise RequestError(f"{argument}: no such file or folder")


def _existing(path: str) -> Iterator[InputFile]:
    if os.path.isdir(path):
        paths = sorted(_search(path, set()))
        if not paths:
            raise RequestError(f"{path}: no {SUFFIX} file in this folder")
        for found in paths:
            yield InputFile(found, name_below(found, path), path, searched=True)
    elif path.endswith(INDEX_SUFFIX):
        root = os.path.dirname(path) or "."
        for shard in _index_files(path):
            if not os.path.exists(shard):
                raise RequestError(f"{shard}: no such file (named by {path})")
            yield InputFile(shard, name_below(shard, root), root, searched=False)
    else:
        root = os.path.dirname(path) or "."
        yield InputFile(path, name_below(path, root), root, searched=False)


def _search(folder: str, above: set[str]) -> Iterator[str]:
    """Every visible safetensors file below ``folder``; links are followed, loops are not."""
    above = above | {os.path.realpath(folder)}
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
        if entry.is_dir():
            if os.path.realpath(entry.path) not in above:
                yield from _search(entry.path, above)
        elif entry.name.endswith(SUFFIX):
            yield entry.path


def _matching(pattern: str) -> Iterator[InputFile]:
    root = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    root = os.path.dirname(root) or "."
    paths = sorted(
        path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path) and path.endswith(SUFFIX)
    )
    if not paths:
        raise RequestError(f"{pattern}: no {SUFFIX} file matches")
    for path in paths:
        yield InputFile(path, name_below(path, root), root, searched=True)


def _index_files(path: str) -> list[str]:
    """The shards an index.json names, in order of first appearance."""
    try:
        weight_map = json.loads(Path(path).read_bytes())["weight_map"]
        names = list(dict.fromkeys(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f'{path}: not an index of safetensors shards: it needs a "weight_map" of key to file'
        ) from error
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f'{path}: its "weight_map" names no files')
    for name in names:
        # Outputs mirror these names: none may lead out of the folder they are written to.
        if os.path.isabs(name) or ".." in name.split("/"):
            raise DataError(f"{path}: names {name!r}, which is not inside the index's own folder; list it in an @file")
    return [os.path.join(os.path.dirname(path), name) for name in names]


def _read_list(source: str) -> list[str]:
    """Paths from a list: separated by NULs where there are any (``find -print0``), else by newlines."""
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except FileNotFoundError:
        raise RequestError(f"@{source}: no such list of files") from None
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    paths = [os.fsdecode(line) for line in lines if line.strip()]
    if not paths:
        raise RequestError(f"@{source}: the list is empty")
    return paths
