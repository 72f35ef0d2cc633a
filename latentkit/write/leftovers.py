"""Temporary files that a killed run left beside its outputs: removed by the next, unless another run is at work."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from latentkit.errors import RequestError
from latentkit.write.placing import make_folder, remove_empty, start_of


@contextmanager
def at_work_in(folder: str, left_by: Iterable[str] = (), *, alone: bool = False) -> Iterator[bool]:
    """Other runs see, while the body runs, that this one writes below ``folder``, and it whether others do.

    If none of them does, what was left of the outputs ``left_by`` is removed first. If one does, and this is to be
    ``alone``, raises ``RequestError``. Where folders cannot be locked, nothing is removed or refused.
    """
    try:
        import fcntl

        make_folder(os.path.abspath(folder))
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except (ImportError, OSError):
        yield False
        return
    others = False
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_parts(left_by)
        except BlockingIOError:
            others = True
            if alone:
                raise RequestError(
                    f"{folder}: another run is writing there; wait for it, or choose another output"
                ) from None
        except OSError:
            pass
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield others
    finally:
        with suppress(OSError):  # nothing was written through it
            os.close(descriptor)
        remove_empty(os.path.abspath(folder))


def _remove_parts(outputs: Iterable[str]) -> None:
    starts: defaultdict[str, set[str]] = defaultdict(set)
    for output in outputs:
        folder, name = os.path.split(os.path.abspath(output))
        starts[folder].add(start_of(name))
    for folder, names in starts.items():
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                part = re.fullmatch(r"\.(.+)\.[0-9a-f]{16}\.part", entry.name, re.DOTALL)
                if part and part[1] in names:
                    os.unlink(entry.path)
