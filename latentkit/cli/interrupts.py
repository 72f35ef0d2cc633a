"""Ctrl-C, SIGTERM and SIGHUP: they end a run at once while it has nothing to lose, and else where it can stop.

An exception that a handler raises comes wherever the run happens to be: it may be swallowed (in a destructor, in an
import that catches everything) or break what is half done. So a handler here raises nothing.

A run may be unable to stop: where a share does not answer, say. Another signal ends it wherever it is, as SIGKILL does,
unless both came together: a shell and a scheduler may each send one.
"""

import _imp

# What ``signal`` is made of: that loads ``enum`` besides, for as long as a Ctrl-C would still end in a traceback.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys
import time

# Seconds within which signals are one.
_TOGETHER = 1.0

_deferring = 0
_received = 0
_since = 0.0


def listen() -> None:
    """Take the signals that end a run."""
    global _received
    _received = 0
    # A Ctrl-C before now may have been swallowed while Python held its lock of imports: no thread could import again.
    try:
        while _imp.lock_held():
            _imp.release_lock()
    except RuntimeError:
        pass  # a thread that was there before is importing
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        number = getattr(signal, name, None)
        # What is ignored stays so: by nohup, or in the background of a script.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _receive)


def _receive(number: int, _: object) -> None:
    global _received, _since
    # Nothing is loaded here: a signal may come within an import.
    under_way = getattr(sys.modules.get("latentkit.write.placing"), "under_way", None)
    has_something_to_lose = _deferring or (under_way is not None and under_way())
    if not has_something_to_lose or (_received and time.monotonic() - _since > _TOGETHER):
        os._exit(128 + number)
    if not _received:
        _since = time.monotonic()
    _received = number


class deferred:
    """While there is something to lose, a signal waits for ``check``, or for the end of the body."""

    def __enter__(self) -> None:
        global _deferring
        _deferring += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        global _deferring
        try:
            if kind is None:
                check()
        finally:
            _deferring -= 1


def check() -> None:
    """Where a run can stop: raise ``KeyboardInterrupt`` if a signal has come."""
    if _received:
        raise KeyboardInterrupt


def status() -> int:
    """The exit status of a run that was interrupted, as shells give it."""
    return 128 + (_received or signal.SIGINT)
