"""States that are damaged: what a good one holds, and a check that a bad one is refused."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from latentkit.errors import DataError
from latentkit.stats.state import from_file

_ENTRY = "latentkit_state"


def contents_of(good: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors and the facts of a state."""
    data = good.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return load_file(good), json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_ENTRY])


def assert_refused(folder: Path, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """A state of these tensors and facts, whose checksum is right, is a sentence that names it."""
    path, none = folder / "bad.state", "0" * 64
    save_file(dict(tensors), path, {_ENTRY: json.dumps({**facts, "sha256": none} if "sha256" in facts else facts)})
    data = path.read_bytes()
    path.write_bytes(data.replace(none.encode(), sha256(data).hexdigest().encode(), 1))
    with pytest.raises(DataError, match=r"bad\.state: not a state that can be read"):
        from_file(str(path))
