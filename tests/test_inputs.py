"""Arguments -> files: folders, globs, indexes, lists, and the names that noise and outputs go by."""

import glob
import io
import json
import os
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from latentkit.errors import DataError, RequestError
from latentkit.read import inputs
from latentkit.read.header import read_header
from latentkit.read.inputs import find_inputs

Touch = Callable[..., None]


@pytest.fixture
def touch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Touch:
    """Make empty files below the working directory; ``.safetensors`` is added to their names."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            path = tmp_path / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return make


def found(*arguments: str) -> list[tuple[str, str]]:
    """Path and name of each file found, without their suffix."""
    return [
        (file.path.removesuffix(".safetensors"), file.name.removesuffix(".safetensors"))
        for file in find_inputs(arguments)
    ]


# ---- files and folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a", "./a", "d/a", "d//a", "d/./a", "d/e/../a"])
def test_a_file_goes_by_its_own_name(touch: Touch, path: str) -> None:
    touch("a", "d/a", "d/e/b")
    assert found(f"{path}.safetensors") == [(path, "a")]


def test_files_stay_in_the_order_given(touch: Touch) -> None:
    touch("a", "b", "c")
    names = [f"{name}.safetensors" for name in "cab"]
    assert [path for path, _ in found(*names)] == ["c", "a", "b"]


def test_a_file_needs_no_suffix_when_named(touch: Touch, tmp_path: Path) -> None:
    touch("a")
    (tmp_path / "a.safetensors").rename("a.bin")
    assert find_inputs(["a.bin"])[0].name == "a.bin"


@pytest.mark.parametrize("folder", ["d", "d/", "./d", "d//", "d/."])
def test_a_folder_is_searched_in_depth_and_sorted(touch: Touch, folder: str) -> None:
    touch("d/b", "d/a", "d/x/y/c", "d/x/a", "e/z")
    names = [name for _, name in found(folder)]
    assert names == ["a", "b", "x/a", "x/y/c"]


def test_the_working_directory_is_a_folder_too(touch: Touch) -> None:
    touch("b", "x/a")
    assert [name for _, name in found(".")] == ["b", "x/a"]


def test_hidden_names_and_other_suffixes_are_left_out(touch: Touch, tmp_path: Path) -> None:
    touch("d/a", "d/.hidden", "d/.cache/b")
    (tmp_path / "d/notes.txt").touch()
    (tmp_path / "d/.a.safetensors.1234.part").touch()
    assert [name for _, name in found("d")] == ["a"]


def test_a_hidden_folder_is_searched_when_named(touch: Touch) -> None:
    touch(".cache/a")
    assert [name for _, name in found(".cache")] == ["a"]


def test_links_are_followed_under_their_own_names(touch: Touch, tmp_path: Path) -> None:
    touch("far/b", "d/a")
    (tmp_path / "d/folder").symlink_to(tmp_path / "far")
    (tmp_path / "d/file.safetensors").symlink_to(tmp_path / "far/b.safetensors")
    assert [name for _, name in found("d")] == ["a", "file", "folder/b"]


def test_a_loop_of_links_ends(touch: Touch, tmp_path: Path) -> None:
    touch("d/a", "d/x/b")
    (tmp_path / "d/x/up").symlink_to("..")
    (tmp_path / "d/x/self").symlink_to(".")
    assert [name for _, name in found("d")] == ["a", "x/b"]


def test_two_links_to_one_folder_are_two_folders(touch: Touch, tmp_path: Path) -> None:
    touch("far/a")
    (tmp_path / "d").mkdir()
    for name in ("x", "y"):
        (tmp_path / "d" / name).symlink_to(tmp_path / "far")
    assert [name for _, name in found("d")] == ["x/a", "y/a"]


def test_a_folder_called_like_a_file_is_searched(touch: Touch) -> None:
    touch("d/x.safetensors/a")
    assert [name for _, name in found("d")] == ["x.safetensors/a"]


def test_only_a_search_is_marked_as_one(touch: Touch) -> None:
    touch("a", "d/b")
    assert [file.searched for file in find_inputs(["a.safetensors", "d", "d/*"])] == [False, True, True]


# ---- globs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("d/*.safetensors", ["a", "b"]),
        ("d/[ab].safetensors", ["a", "b"]),
        ("d/?.safetensors", ["a", "b"]),
        ("d/**/*.safetensors", ["a", "b", "x/c"]),
        ("d/*/c.safetensors", ["x/c"]),
        ("d/x*/c.safetensors", ["x/c"]),
        ("*/[b].safetensors", ["d/b"]),
        ("d//*.safetensors", ["a", "b"]),
    ],
)
def test_a_glob_names_files_from_the_folder_before_its_first_wildcard(
    touch: Touch, pattern: str, names: list[str]
) -> None:
    touch("d/b", "d/a", "d/x/c", "d/.hidden")
    assert [name for _, name in found(pattern)] == names


@pytest.mark.parametrize("name", ["a[1]", "b*", "what?"])
def test_an_existing_path_wins_over_a_pattern(touch: Touch, name: str) -> None:
    touch(name, "a1", "b2", "whatx")
    assert found(f"{name}.safetensors") == [(name, name)]


def test_a_glob_takes_safetensors_files_only(touch: Touch, tmp_path: Path) -> None:
    touch("d/a")
    (tmp_path / "d/b.txt").touch()
    assert [name for _, name in found("d/*")] == ["a"]


# ---- an index -----------------------------------------------------------------------------------------------------


def test_an_index_lists_its_shards_in_order_of_first_appearance(touch: Touch, tmp_path: Path) -> None:
    touch("d/b", "d/a", "d/x/c")
    shards = ["b", "x/c", "b", "a"]
    weight_map = {str(number): f"{name}.safetensors" for number, name in enumerate(shards)}
    (tmp_path / "d/m.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert found("d/m.safetensors.index.json") == [("d/b", "b"), ("d/x/c", "x/c"), ("d/a", "a")]


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/a.safetensors", "x/../../a"])
def test_an_index_stays_in_its_folder(touch: Touch, tmp_path: Path, name: str) -> None:
    touch("a", "d/x/a")
    (tmp_path / "d/m.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(DataError, match="not inside"):
        find_inputs(["d/m.safetensors.index.json"])


# ---- lists --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a.safetensors\nd/b.safetensors\n",
        "a.safetensors\nd/b.safetensors",
        "\na.safetensors\n\n  \nd/b.safetensors\n",
        "a.safetensors\r\nd/b.safetensors\r\n",
        "a.safetensors\0d/b.safetensors\0",
        "a.safetensors\0d/b.safetensors",
    ],
    ids=["lines", "no last newline", "blank lines", "CRLF", "NULs", "no last NUL"],
)
@pytest.mark.parametrize("source", ["@list.txt", "@-"])
def test_a_list_names_paths(
    touch: Touch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, source: str
) -> None:
    touch("a", "d/b")
    (tmp_path / "list.txt").write_bytes(text.encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert found(source) == [("a", "a"), ("d/b", "b")]


def test_a_list_may_name_folders(touch: Touch, tmp_path: Path) -> None:
    touch("d/b", "d/a")
    (tmp_path / "list.txt").write_text("d\n")
    assert found("@list.txt") == [("d/a", "a"), ("d/b", "b")]


def test_paths_between_nuls_may_hold_newlines(touch: Touch, tmp_path: Path) -> None:
    touch("a\nb")
    (tmp_path / "list.txt").write_bytes(b"a\nb.safetensors\0")
    assert found("@list.txt") == [("a\nb", "a\nb")]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_list_may_hold_bytes_that_are_not_utf8(touch: Touch, tmp_path: Path) -> None:
    touch(os.fsdecode(b"\xff"))
    (tmp_path / "list.txt").write_bytes(b"\xff.safetensors\n")
    assert find_inputs(["@list.txt"])[0].name == "\\xff.safetensors"


def test_a_file_whose_name_begins_with_an_at_sign_wins_over_a_list(touch: Touch) -> None:
    touch("@a")
    assert found("@a.safetensors") == [("@a", "@a")]


# ---- names --------------------------------------------------------------------------------------------------------


def test_names_are_composed_as_nfc(touch: Touch) -> None:
    decomposed = unicodedata.normalize("NFD", "é/ü")
    touch(f"d/{decomposed}")
    assert [name for _, name in found("d")] == ["é/ü"]


def test_relative_to_names_files_from_there(touch: Touch) -> None:
    touch("d/x/a", "d/y/b")
    files = find_inputs(["d/x/a.safetensors", "d/y"], relative_to="d")
    assert [file.name for file in files] == ["x/a.safetensors", "y/b.safetensors"]


def test_relative_to_may_be_the_root_of_the_disk(touch: Touch, tmp_path: Path) -> None:
    touch("a")
    assert find_inputs(["a.safetensors"], relative_to="/")[0].name == str(tmp_path / "a.safetensors").lstrip("/")


@pytest.mark.parametrize("root", ["e", "d/x", "nosuch", "da"])
def test_a_file_outside_of_relative_to_is_refused(touch: Touch, root: str) -> None:
    touch("d/a", "e/b", "d/x/c", "da/d")
    with pytest.raises(RequestError, match="not inside"):
        find_inputs(["d/a.safetensors"], relative_to=root)


# ---- folders that are no trees ------------------------------------------------------------------------------------


def test_a_thousand_levels_are_searched(touch: Touch, tmp_path: Path) -> None:
    touch("d/a")
    place = tmp_path / "d"
    try:
        for _ in range(1000):
            place = place / "x"
            place.mkdir()
            (place / "up").symlink_to("..")
        (place / "b.safetensors").touch()
        start = time.monotonic()
        assert [name for _, name in found("d")] == ["a", "x/" * 1000 + "b"]
        assert len(found("d/**/*.safetensors")) == 2
        assert time.monotonic() - start < 2
    finally:
        # Python's own way to remove a tree calls itself.
        subprocess.run(["rm", "-r", tmp_path / "d/x"], check=True)


@pytest.mark.parametrize("argument", ["d", "d/**/*.safetensors"])
def test_a_maze_of_links_ends_in_a_sentence(touch: Touch, tmp_path: Path, argument: str) -> None:
    for one in range(20):
        touch(f"d/{one}/a")
        for other in range(20):
            (tmp_path / f"d/{one}/to{other}").symlink_to(f"../{other}")
    start = time.monotonic()
    with pytest.raises(RequestError, match=r"d/?: holds more than 10,000 links to folders"):
        find_inputs([argument])
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("argument", ["d", "d/**/*.safetensors", "d/**"])
def test_links_that_lead_nowhere_are_passed_over(touch: Touch, tmp_path: Path, argument: str) -> None:
    touch("d/a", "d/x/b")
    (tmp_path / "d/gone.safetensors").symlink_to("nowhere")
    (tmp_path / "d/x/circle").symlink_to("circle")
    (tmp_path / "d/x/file").symlink_to("b.safetensors/c")
    files = find_inputs([argument])
    assert [file.name for file in files] == ["a.safetensors", "x/b.safetensors"]
    assert sorted(files.unreadable) == [
        "d/gone.safetensors (No such file or directory)",
        "d/x/circle (Too many levels of symbolic links)",
        "d/x/file (Not a directory)",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_passed_over(touch: Touch, tmp_path: Path) -> None:
    touch("d/a", "d/x/b")
    (tmp_path / "d/x").chmod(0)
    assert find_inputs(["d"]).unreadable == ("d/x (Permission denied)",)
    (tmp_path / "d/x").chmod(0o700)


def test_a_folder_that_cannot_be_searched_is_passed_over(touch: Touch, monkeypatch: pytest.MonkeyPatch) -> None:
    touch("d/a", "d/x/b")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path == "d/x":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    files = find_inputs(["d"])
    assert ([file.name for file in files], files.unreadable) == (["a.safetensors"], ("d/x (Permission denied)",))
    with pytest.raises(PermissionError):
        find_inputs(["d/x"])


@pytest.mark.usefixtures("touch")
def test_a_folder_of_nothing_but_bad_links_says_so(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.safetensors").symlink_to("nowhere")
    with pytest.raises(
        RequestError, match=r"no .safetensors file in this folder, nor .*; cannot be read: d/a.safetensors"
    ):
        find_inputs(["d"])


@pytest.mark.parametrize(
    "pattern", ["**/*.safetensors", "*/**/b.safetensors", "d/**/x/*", "**/x/**/*", "**/**/?.*", "**"]
)
def test_a_glob_below_any_folder_finds_what_the_standard_library_finds(touch: Touch, pattern: str) -> None:
    touch("a", "d/b", "d/x/b", "d/x/y/b", "d/.hidden/b", "e/x/b", "e/.b")
    expected = [
        path for path in glob.glob(pattern, recursive=True) if path.endswith(".safetensors") and os.path.isfile(path)
    ]
    assert sorted(file.path.removeprefix("./") for file in find_inputs([pattern])) == sorted(set(expected))


# ---- text from elsewhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["\ufeffa.safetensors\n", "\ufeffa.safetensors\0", "a.safetensors\r\n\r\n"])
def test_a_list_from_elsewhere(touch: Touch, tmp_path: Path, text: str) -> None:
    touch("a")
    (tmp_path / "list.txt").write_bytes(text.encode())
    assert found("@list.txt") == [("a", "a")]


def test_a_name_in_a_list_may_hold_a_carriage_return(touch: Touch, tmp_path: Path) -> None:
    touch("a\rb")
    (tmp_path / "list.txt").write_bytes(b"a\rb.safetensors\n")
    assert found("@list.txt") == [("a\rb", "a\rb")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_an_index_from_elsewhere(touch: Touch, tmp_path: Path, encoding: str) -> None:
    touch("a")
    text = json.dumps({"weight_map": {"é": "a.safetensors"}}, ensure_ascii=False)
    (tmp_path / "m.safetensors.index.json").write_bytes(text.replace(", ", ",\r\n").encode(encoding))
    assert found("m.safetensors.index.json") == [("a", "a")]


@pytest.mark.parametrize("name", ["\ud800", "a\0", "", ".", "x" * 10_000, "..\\a", "-", "@list"])
@pytest.mark.usefixtures("touch")
def test_an_index_of_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises((RequestError, DataError, OSError)):
        for file in find_inputs(["m.safetensors.index.json"]):
            read_header(file.path)


def test_a_closed_standard_input_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(RequestError, match="@-: standard input is closed"):
        find_inputs(["@-"])


@pytest.mark.parametrize(
    ("ends", "name"), [(b"\n", "é.safetensors"), (b"\r\n", "b c.safetensors"), (b"\0", "d\n.safetensors")]
)
def test_a_list_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bytes, name: str) -> None:
    (tmp_path / name).touch()
    path = os.fsencode(tmp_path / name)
    listing = tmp_path / "list.txt"
    listing.write_bytes(b"\xef\xbb\xbf" + ends.join([path, b"", path, path]) + ends)
    for piece in range(len(path) + 4, len(path) + 12):
        monkeypatch.setattr(inputs, "_PIECE", piece)
        assert [file.path for file in find_inputs([f"@{listing}"])] == [str(tmp_path / name)] * 3


def test_a_line_of_a_list_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"x" * (3 << 20))
    with pytest.raises(RequestError, match="no list of paths: a line has over 1 MiB"):
        find_inputs([f"@{tmp_path / 'list.txt'}"])
