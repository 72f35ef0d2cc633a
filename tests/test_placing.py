"""Output files: whole or not at all, whatever fails; nothing that was there is lost."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import files_below

from latentkit.errors import RequestError
from latentkit.write.places import check_outputs, is_folder
from latentkit.write.placing import Placement, commit_all, is_stream, place_together, placed


class Interrupted(BaseException):
    """Stands for Ctrl-C and SIGTERM."""


def put(path: Path, data: bytes = b"new", *, overwrite: bool = False) -> None:
    with placed(str(path), overwrite=overwrite) as descriptor:
        os.write(descriptor, data)


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    with placed(str(tmp_path / "deep/er/a.csv")) as descriptor:
        os.write(descriptor, b"half")
        assert not (tmp_path / "deep/er/a.csv").exists()
        os.write(descriptor, b" and half")
    assert (tmp_path / "deep/er/a.csv").read_bytes() == b"half and half"
    assert files_below(tmp_path) == ["deep/er/a.csv"]


def test_no_temporary_name_looks_like_data(tmp_path: Path) -> None:
    placement = Placement(str(tmp_path / "a.safetensors"), overwrite=False)
    (name,) = files_below(tmp_path)
    assert name.startswith(".")
    assert not name.endswith(".safetensors")
    placement.discard()


@pytest.mark.parametrize("error", [OSError, Interrupted, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existed", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException], existed: bool) -> None:
    path = tmp_path / "a.csv"
    if existed:
        path.write_bytes(b"old")
    with pytest.raises(error), placed(str(path), overwrite=True) as descriptor:
        os.write(descriptor, b"half")
        raise error
    assert files_below(tmp_path) == (["a.csv"] if existed else [])
    assert not existed or path.read_bytes() == b"old"


# Calls of the operating system that an output is made with: each may fail.
CALLS = ["open", "lstat", "write", "fsync", "fchmod", "replace", "stat"]


@pytest.mark.parametrize("call", CALLS)
def test_whichever_call_fails_the_old_file_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"old")
    real = getattr(os, call)
    for fails_at in range(20):
        count = 0

        def fail(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == fails_at + 1:  # noqa: B023 - used within its round
                raise OSError(errno.EIO, "Input/output error")
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            try:
                put(path, overwrite=True)
            except OSError as error:
                assert error.errno == errno.EIO
                failed = True
            else:
                failed = False
        assert path.read_bytes() == (b"old" if failed else b"new")
        assert files_below(tmp_path) == ["a.csv"]
        if not failed:
            return
    raise AssertionError(f"{call} never passed")


@pytest.mark.parametrize("call", ["open", "fsync", "write"])
def test_an_error_names_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left") as error:
        put(tmp_path / "a.csv")
    assert error.value.filename == str(tmp_path / "a.csv")


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(RequestError, match="appeared while this run was writing it"), placed(str(path)) as descriptor:
        os.write(descriptor, b"ours")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert files_below(tmp_path) == ["a.csv"]


def refuse(number: int) -> Callable[..., None]:
    """Stands for a call that a file system does not know."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["link", "fchmod", "fsync", "chmod"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.ENOSYS])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_share_that_lacks_something_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, overwrite: bool
) -> None:
    if overwrite:
        (tmp_path / "a.csv").write_bytes(b"old")
    monkeypatch.setattr(os, call, refuse(number))
    put(tmp_path / "a.csv", overwrite=overwrite)
    place_together({str(tmp_path / "b"): [b"b"], str(tmp_path / "c"): [b"c", b"c"]}, overwrite=overwrite)
    assert (tmp_path / "a.csv").read_bytes() == b"new"
    assert files_below(tmp_path) == ["a.csv", "b", "c"]


def test_without_hard_links_too_a_file_that_appears_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path)


def test_without_hard_links_too_a_failing_move_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    monkeypatch.setattr(os, "rename", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        put(tmp_path / "a.csv")
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("after", ["open", "mkdir", "link", "unlink", "fsync", "close"])
def test_an_interrupt_that_comes_just_after_a_call_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """Between making a file and remembering it, say."""
    real = getattr(os, after)
    for comes_at in range(20):
        count = 0

        def interrupt(*arguments: object, **options: object) -> object:
            nonlocal count
            came_to = real(*arguments, **options)
            count += 1
            if count == comes_at + 1:  # noqa: B023 - used within its round
                raise Interrupted
            return came_to

        place = tmp_path / str(comes_at) / "deep/a.csv"
        with monkeypatch.context() as patch:
            patch.setattr(os, after, interrupt)
            try:
                put(place)
            except Interrupted:
                interrupted = True
            else:
                interrupted = False
        assert files_below(tmp_path / str(comes_at)) in ([], ["deep/a.csv"])
        if not files_below(tmp_path / str(comes_at)):
            assert not (tmp_path / str(comes_at)).exists(), "its folders are left"
        if not interrupted:
            return
    raise AssertionError(f"{after} was never left alone")


def test_what_replaces_a_private_file_is_private_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch(0o640)
    placement = Placement(str(tmp_path / "a.csv"), overwrite=True)
    assert [path.stat().st_mode & 0o077 for path in tmp_path.glob(".a*")] == [0]
    placement.discard()


def test_folders_on_the_way_go_when_the_file_does(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    first = Placement(str(tmp_path / "there/new/er/a"), overwrite=False)
    second = Placement(str(tmp_path / "there/new/b"), overwrite=False)
    first.discard()
    assert (tmp_path / "there/new").exists()
    second.discard()
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


# ---- several files of one run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [(), ("a",), ("b",), ("a", "b", "c")])
@pytest.mark.parametrize("call", ["open", "pwrite", "fsync", "replace", "link"])
def test_files_are_placed_together_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: tuple[str, ...], call: str
) -> None:
    for name in existing:
        (tmp_path / name).write_bytes(b"old")
    outputs = {str(tmp_path / name): [b"new ", name.encode()] for name in "abc"}
    real = getattr(os, call)
    for fails_at in range(20):
        count = 0

        def fail(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == fails_at + 1:  # noqa: B023 - used within its round
                raise OSError(errno.EIO, "Input/output error")
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            try:
                place_together(outputs, overwrite=True)
            except OSError:
                failed = True
            else:
                failed = False
        there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        if failed:
            assert there == dict.fromkeys(existing, b"old")
        else:
            assert there == {name: b"new " + name.encode() for name in "abc"}
            if count <= fails_at:
                return
            for name in set("abc") - set(existing):
                (tmp_path / name).unlink()
            for name in existing:
                (tmp_path / name).write_bytes(b"old")
    raise AssertionError(f"{call} never passed")


def test_of_files_placed_together_one_that_appeared_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def appear(*arguments: object, **options: object) -> None:
        (tmp_path / "b").write_bytes(b"theirs")
        real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", appear)
    with pytest.raises(RequestError, match="appeared while"):
        place_together({str(tmp_path / name): [b"ours"] for name in "abc"}, overwrite=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b": b"theirs"}


@pytest.mark.parametrize("target", ["a.csv", "gone.csv", "link.csv"])
def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path, target: str) -> None:
    (tmp_path / "a.csv").write_bytes(b"old")
    (tmp_path / "link.csv").symlink_to(target)
    put(tmp_path / "link.csv", overwrite=True)
    assert not (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "link.csv").read_bytes() == b"new"
    assert (tmp_path / "a.csv").read_bytes() == b"old"
    assert files_below(tmp_path) == ["a.csv", "link.csv"]


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    old = os.umask(0)
    os.umask(old)
    yield lambda mask: (os.umask(mask), None)[1]
    os.umask(old)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path: Path, umask: Callable[[int], None], mask: int) -> None:
    umask(mask)
    put(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_replaced_file_hands_its_mode_on(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    (tmp_path / "a.csv").chmod(0o640)
    put(tmp_path / "a.csv", overwrite=True)
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "é" * 125 + ".csv", "🙂" * 62 + ".csv"])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    put(tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"new"


def test_many_files_are_committed_or_discarded_together(tmp_path: Path) -> None:
    placements = [Placement(str(tmp_path / f"{number}"), overwrite=False) for number in range(40)]
    commit_all(placements[:30])
    for placement in placements:
        placement.discard()
    assert files_below(tmp_path) == sorted(str(number) for number in range(30))


def test_discarding_twice_closes_no_other_file(tmp_path: Path) -> None:
    placement = Placement(str(tmp_path / "a"), overwrite=False)
    commit_all([placement])
    with open(tmp_path / "b", "wb", buffering=0) as other:
        assert other.fileno() == placement.descriptor, "the number was not used again: the test shows nothing"
        placement.discard()
        other.write(b"still open")


# ---- before any work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["-", "/dev/null", "/dev/stdout", "fifo"])
def test_streams_are_written_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    assert is_stream(path)
    check_outputs([path], overwrite=False)


@pytest.mark.parametrize("path", ["a.csv", "folder", "gone.csv"])
def test_files_and_folders_are_no_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").touch()
    Path("folder").mkdir()
    assert not is_stream(path)


@pytest.mark.parametrize(
    ("path", "overwrite", "words"),
    [
        ("a.csv", False, "exists already"),
        ("broken", False, "exists already"),
        ("folder", True, "is a folder"),
        ("a.csv/b.csv", True, "not a folder"),
        ("a.csv/x/y/b.csv", True, "not a folder"),
        ("a.csv", True, "is an input itself"),
        ("link.csv", True, "is an input itself"),
    ],
)
def test_what_cannot_be_placed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, overwrite: bool, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").touch()
    Path("folder").mkdir()
    Path("broken").symlink_to("gone")
    Path("link.csv").symlink_to("a.csv")
    with pytest.raises(RequestError, match=words):
        check_outputs([path], overwrite=overwrite, read=["gone", "a.csv"])


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RequestError, match="cannot be written to"):
        check_outputs([str(tmp_path / "deep/a.csv")], overwrite=False)


FOLDERS = {
    "out": True,
    "out/": True,
    "out.foo/": True,
    "run-v1.5": True,
    "v2.0.1": True,
    "there.pt": True,
    "a.npy": False,
}


@pytest.mark.parametrize(("path", "folder"), FOLDERS.items(), ids=FOLDERS)
def test_a_folder_is_there_or_has_no_suffix(tmp_path: Path, path: str, folder: bool) -> None:
    (tmp_path / "there.pt").mkdir()
    assert is_folder(str(tmp_path / path) + "/" * path.endswith("/"), [".safetensors", ".npy"]) is folder


@pytest.mark.parametrize("path", ["out.pt", "out.foo", "out.SAFETENSORS", "run.v2/out.tar", "out.h5"])
def test_the_suffix_of_a_file_that_is_not_written_makes_no_folder(path: str) -> None:
    with pytest.raises(RequestError, match=r" is not written; end it with .safetensors, .npy, or / for a folder"):
        is_folder(path, [".safetensors", ".npy"])
