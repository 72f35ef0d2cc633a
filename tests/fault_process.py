"""A process with ``latentkit`` loaded that forks: every run is a fresh child, with a fault built in, in some 30 ms.

Requests come as JSON, one a line, on standard input; the answers go to standard output. ``faults.py`` is the other end.
"""

import errno
import itertools
import json
import os
import re
import resource
import signal
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import latentkit.cli.report
from latentkit.cli.main import main

# A child that hangs is killed after so many seconds: an exit status that no test expects.
PATIENCE = 60
# These answer, and never fail.
NO_FAILURE = {"access", "fspath", "isatty", "get_blocking", "putenv", "unsetenv"}
SAMPLE_DATA = Path(__file__).parent.parent / "sample_data"


def serve() -> None:
    """Fork a run for each request; say that it has stopped itself (then ``continue`` is next for it), or ended."""
    for line in sys.stdin:
        request = json.loads(line)
        if "continue" in request:
            pid = request["continue"]
            os.kill(pid, signal.SIGCONT)
        else:
            pid = os.fork()
            if pid == 0:
                run(request)
            if "after" in request:
                time.sleep(request["after"])
                os.kill(pid, request["signal"])
        _, status = os.waitpid(pid, os.WUNTRACED)
        stopped = os.WIFSTOPPED(status)
        print(json.dumps([pid, None if stopped else os.waitstatus_to_exitcode(status)]), flush=True)


def run(request: dict[str, Any]) -> None:
    """Be ``latentkit`` with these arguments, in this folder, under this fault, to the end of the process."""
    signal.alarm(PATIENCE)
    os.chdir(request["folder"])
    redirect(request["streams"])
    fired = os.open(request["fired"], os.O_WRONLY)
    for name, limit in request.get("limits", {}).items():
        # Address space is what it has, and so much more.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit += used if name == "RLIMIT_AS" else 0
        resource.setrlimit(getattr(resource, name), (limit, limit))
    if "user" in request and os.getuid() == 0:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    for target, error in request.get("raises", {}).items():
        replace(target, raising(error))
    if request.get("clock") == "backwards":
        for name in ("time", "monotonic", "perf_counter"):
            replace(f"time:{name}", itertools.count(1e9, -10).__next__)
    if "call" in request:
        inject(request["folder"], request["call"], request.get("only", ""), action(request["act"]), fired)
    sys.argv = ["latentkit", *request["arguments"]]
    try:
        main()
    except SystemExit as end:
        # As an interpreter ends, but for taking apart, for 60 ms, what was loaded.
        threading._shutdown()  # type: ignore[attr-defined]
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(end.code)  # type: ignore[arg-type]


def redirect(streams: list[str | None]) -> None:
    """Standard streams to these files; one that is None is closed, as the shell's ``>&-`` does."""
    for number, (name, path) in enumerate(zip(("stdin", "stdout", "stderr"), streams, strict=True)):
        if path is None:
            setattr(sys, name, None)
            os.close(number)
            continue
        descriptor = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
        if number == 0:
            sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open to the end


def replace(target: str, by: Callable[..., Any]) -> None:
    module, _, name = target.partition(":")
    setattr(sys.modules[module], name, by)


def raising(error: str) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise getattr(__builtins__, error)("a fault of the test")

    return fail


Act = Callable[[Callable[[], Any], str | None], Any]


def action(act: list[Any]) -> Act:
    """What happens at a call: an error in its place, the process stopped before it, or a signal just after it."""
    kind, *value = act

    def happen(real: Callable[[], Any], path: str | None) -> Any:
        if kind == "error":
            number = getattr(errno, *value)
            raise OSError(number, os.strerror(number), path)
        if kind == "stop":
            # To this thread, which so goes no further; a signal to the process may take its time on its way here.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        result = real()
        if kind == "after":
            os.kill(os.getpid(), *value)
        return result

    return happen


def inject(folder: str, number: int, only: str, act: Act, fired: int) -> None:
    """Let ``act`` stand for the ``number``-th call of the operating system that concerns a file below ``folder``.

    Every function of ``os`` is counted whose first argument is such a path or a descriptor of one, where its name and
    that path match ``only``.
    """
    turns = itertools.count(1)
    opened: dict[int, str] = {}
    write = os.write

    def concerned(argument: Any) -> str | None:
        if isinstance(argument, (str, bytes, os.PathLike)):
            path = os.path.join(folder, os.fsdecode(argument))
            return path if path.startswith(folder + "/") else None
        return opened.get(argument) if isinstance(argument, int) else None

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            path = concerned(arguments[0]) if arguments else None
            if path is None:
                return real(*arguments, **options)

            def do() -> Any:
                result = real(*arguments, **options)
                if name in ("open", "dup"):
                    opened[result] = path
                return result

            if name == "close":
                opened.pop(arguments[0], None)
            what = f"{name} {os.path.relpath(path, folder)}"
            if not re.match(only, what) or next(turns) != number:
                return do()
            write(fired, what.encode(errors="surrogateescape"))
            if name == "close":
                do()  # an error of close closes all the same
                return act(lambda: None, None)
            return act(do, None if isinstance(arguments[0], int) else os.fsdecode(arguments[0]))

        return call

    for name, real in list(vars(os).items()):
        if isinstance(real, types.BuiltinFunctionType) and name not in NO_FAILURE:
            setattr(os, name, counted(name, real))


def warm_up() -> None:
    """Load what the commands load, compiled loops too, so that children have it."""
    latentkit.cli.report._page = lambda *_: "<!doctype html><title>A page in place of the slow real one</title>"  # type: ignore[assignment]
    moments = str(SAMPLE_DATA / "healthy-f32.safetensors")
    commands = [
        ["kl", moments, "-o", "kl.parquet"],
        ["kl", moments, "-o", "kl.json", "--top", "3"],
        ["sample", moments, "-o", "latents.safetensors"],
        ["nll", moments, "--latents", "latents.safetensors", "-o", "nll.csv"],
        ["stats", moments, "-o", "stats.json", "--state", "state.safetensors"],
        ["stats", moments, "-o", "stats.csv"],
        ["report", moments, "-o", "report.html"],
        ["convert", moments, "-o", "converted"],
        ["info", moments, "--format", "table"],
    ]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for command in commands:
            sys.argv = ["latentkit", *command, *([] if command[0] == "info" else ["--quiet"])]
            try:
                main()
            except SystemExit as end:
                assert end.code == 0, command
        os.chdir("/")


if __name__ == "__main__":
    # What a warm run prints is no answer; OpenBLAS's threads, of which Python warns at a fork, hold no lock now.
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    warm_up()
    sys.stdout.flush()
    os.dup2(answers, 1)
    import warnings

    warnings.simplefilter("ignore")
    serve()
