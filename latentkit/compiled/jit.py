"""The decorators of compiled code, and the cache that keeps it from one run to the next.

Numba's own cache goes by the file of the outermost loop alone, and two first runs at once may mix up its entries. Here
an entry is a file, named by a digest of all that it depends on: every file of this package, its own signature, the
processor, the versions and Numba's settings. So nothing is ever stale, and what is written twice is the same. A cache
that cannot be read or written, or that others could have written, costs the time of compiling again, and nothing else.
"""

import ctypes
import hashlib
import mmap
import os
import pickle
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
import numpy as np
from numba.core import compiler, serialize
from numba.core.caching import NullCache
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys

Function = TypeVar("Function", bound=Callable[..., Any])

# Where Numba looks for the folder of its own cache; a user who has set it wants ours there too.
_FOLDER = "NUMBA_CACHE_DIR"
# Entries that nobody has used for so long are those of older versions.
_UNUSED_SECONDS = 60 * 86_400


def formula(function: Function) -> Function:
    """What loops call: it becomes a part of them. No fast-math, so that every operation is rounded as it is written."""
    return cast(Function, numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function))


def loop(function: Function) -> Function:
    """What the interpreter calls: it runs without the interpreter's lock, and is compiled once per machine."""
    compiled: Any = formula(function)
    if not numba.config.DISABLE_JIT:
        compiled._cache = _Cache(function)
    return cast(Function, compiled)


def compiles_first() -> bool:
    """Whether nothing was compiled here before for this processor, so that a first run will take seconds longer."""
    folder = cache_folder()
    return not numba.config.DISABLE_JIT and not (folder and os.path.isdir(folder))


@cache
def cache_folder() -> Path | None:
    """Where compiled code is kept: below the user's cache folder; None where there is none of the user's own."""
    default = os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    homes = os.environ.get(_FOLDER), os.environ.get("XDG_CACHE_HOME"), default
    processor = repr(cpu_target.target_context.codegen().magic_tuple())
    name = f"loops-{hashlib.sha256((_SOURCES + processor).encode()).hexdigest()[:32]}"
    return next((Path(home) / "latentkit" / name for home in homes if home and os.path.isabs(home)), None)


def _digest() -> str:
    """Of all that compiled code depends on but for its signature and the processor."""
    versions = numba.__version__, llvmlite.__version__, np.__version__, sys.version
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and item[0] != _FOLDER)
    sources = [(source.name, source.read_bytes()) for source in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(repr((versions, settings, sources)).encode()).hexdigest()


# Now and not when it is asked for: by then an upgrade may have come, and this code be older than its files.
_SOURCES = _digest()


class _Cache(NullCache):  # type: ignore[misc]
    """What Numba asks of a cache. An entry is a checksum, then what ``CompileResult`` reduces itself to."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def load_overload(self, signature: object, context: Any) -> Any:
        # Alone what compiled code runs on: all that a compiler knows takes 25 MiB, and is loaded when one is needed.
        rtsys.initialize(context)
        # Whatever is wrong with an entry, compiling again mends it.
        with suppress(Exception):
            loaded = compiler.CompileResult._rebuild(context, *pickle.loads(_read(self._path(signature))))
            _release_compiler()
            return loaded
        return None

    def save_overload(self, signature: object, result: Any) -> None:
        # What holds addresses is good for this process alone.
        if not result.library.has_dynamic_globals:
            with suppress(Exception):
                _write(self._path(signature), serialize.dumps(result._reduce()))

    def _path(self, signature: object) -> Path:
        folder, name = cache_folder(), self._function.__qualname__
        if folder is None:
            raise FileNotFoundError
        depends_on = repr((self._function.__module__, name, str(signature)))
        return folder / f"{name}-{hashlib.sha256(depends_on.encode()).hexdigest()[:32]}"


def _read(path: Path) -> bytes:
    _refuse_others(path.parent)
    _refuse_others(path)
    entry = path.read_bytes()
    if entry[:32] != _checksum(path, entry[32:]):
        raise ValueError(path)
    with suppress(OSError):
        os.utime(path)
    return entry[32:]


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_others(path.parent)
    descriptor, part = tempfile.mkstemp(dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(_checksum(path, data) + data)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
    _forget_unused(path.parent.parent)


def _checksum(path: Path, data: bytes) -> bytes:
    """With the entry's name in it, so that one renamed is none."""
    return hashlib.sha256(os.fsencode(f"{path.parent.name}/{path.name}\0") + data).digest()


def _refuse_others(path: Path) -> None:
    """Code is loaded only from what its user or root alone could write."""
    found = path.lstat()
    if hasattr(os, "getuid") and (
        found.st_uid not in (0, os.getuid()) or found.st_mode & 0o022 or stat.S_ISLNK(found.st_mode)
    ):
        raise PermissionError(path)


@cache
def _forget_unused(folder: Path) -> None:
    """Remove what other versions have left, once a process."""
    oldest = time.time() - _UNUSED_SECONDS
    for entry in folder.glob("loops-*/*"):
        with suppress(OSError):
            if entry.stat().st_mtime < oldest:
                entry.unlink()
                entry.parent.rmdir()


def _release_compiler() -> None:
    """Give back the pages of the compiler's code that loading an entry has touched: 50 MiB that are of no use any more.

    They are pages of a file, which nobody writes to: what is needed again comes back by itself.
    """
    for start, length in _compiler_code():
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


@cache
def _compiler_code() -> list[tuple[int, int]]:
    """Where LLVM's code is mapped, (address, length), on Linux; elsewhere it stays."""
    if sys.platform != "linux":
        return []
    lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    spans = [line.split()[0].split("-") for line in lines if " r-xp " in line and line.endswith("/libllvmlite.so")]
    return [(int(start, 16), int(end, 16) - int(start, 16)) for start, end in spans]
