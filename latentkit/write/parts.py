"""A folder with a part for each input: which parts are complete is told by a note, placed before the first of them."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from latentkit.errors import RequestError
from latentkit.write.placing import place_together

#: The note: what each part is made of, and which file it replaces.
NOTE_NAME = ".latentkit.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One output of a folder, and the digest of all that its bytes come from."""

    path: str
    digest: str


def digest_of(*sources: object) -> str:
    """Tells sources apart by what they print as."""
    return hashlib.sha256(repr(sources).encode()).hexdigest()


def is_complete(part: Part, noted: dict[str, Any], folder: str, *, overwrite: bool) -> bool:
    """Whether a part is there, and is what this run would make.

    It is placed when it is whole, so it is if the note of its folder says that it is made of the same, and it is not
    the file that it was to replace. Another one raises ``RequestError`` unless it may be replaced.
    """
    there = _file_at(part.path)
    if there is None:
        return False
    match noted.get(_name(part, folder)):
        case {"made_of": part.digest, "replaces": None}:
            return True
        case {"made_of": part.digest, "replaces": [inode, written]} if inode != there[0] and written != there[1]:
            return True
    if not overwrite:
        raise RequestError(
            f"{part.path}: exists, and is not known to be made by this request of these inputs; --overwrite makes it "
            f"again"
        )
    return False


def read_note(folder: str) -> dict[str, Any]:
    """What was noted of the parts in a folder; a note that cannot be read says nothing."""
    path = os.path.join(folder, NOTE_NAME)
    try:
        if not os.path.isfile(path):
            return {}
        with open(path, "rb") as file:
            noted = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return noted if isinstance(noted, dict) else {}


def place_note(folder: str, parts: Iterable[Part]) -> None:
    """Note what ``parts`` will be made of, before any of them is placed; what is noted of others stays."""
    noted = read_note(folder)
    for part in parts:
        noted[_name(part, folder)] = {"made_of": part.digest, "replaces": _file_at(part.path)}
    text = json.dumps(noted, sort_keys=True) + "\n"
    place_together({os.path.join(folder, NOTE_NAME): [text.encode()]}, overwrite=True)


def _name(part: Part, folder: str) -> str:
    return os.path.relpath(part.path, folder)


def _file_at(path: str) -> list[int] | None:
    """Which file is at ``path``: its inode, and when it was written to; None where none is."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return [status.st_ino, status.st_mtime_ns]
