"""Tables of rows: what is written can be read back, to the last bit, by whoever reads the format."""

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from latentkit.errors import RequestError
from latentkit.write.json_rows import jsonable
from latentkit.write.stream import Same, write_all
from latentkit.write.tables import check_rows_format, open_rows

TYPES = {"file": "string", "index": "int64", "kl": "double", "flag": "bool"}
ROWS: list[dict[str, Any]] = [
    {"file": "plain", "index": 0, "kl": 0.1 + 0.2, "flag": True},
    {"file": 'comma, "quote"', "index": 2**40, "kl": 5e-324, "flag": False},
    {"file": "line\nbreak\r\n\x1b[31m", "index": 2, "kl": 1.7976931348623157e308, "flag": True},
    {"file": "é🙂", "index": 3, "kl": -0.0, "flag": False},
]


def written(tmp_path: Path, form: str, *batches: list[dict[str, Any]], **options: Any) -> Path:
    path = tmp_path / "out"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    writer = open_rows(form, descriptor, TYPES, **options)
    for rows in batches:
        writer.write({name: [row[name] for row in rows] for name in TYPES})
    writer.end({"end": 1})
    os.close(descriptor)
    return path


def read(path: Path, form: str) -> list[dict[str, Any]]:
    if form == "parquet":
        return list(pyarrow.parquet.read_table(path).to_pylist())
    text = path.read_bytes().decode(errors="surrogateescape")
    if form == "csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line) for line in text.splitlines()] if form == "jsonl" else list(json.loads(text)["rows"])


FORMS = ["csv", "jsonl", "json", "parquet"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "batches", [[ROWS], [ROWS[:1], ROWS[1:]], [[], ROWS, []]], ids=["one", "two", "with empty ones"]
)
def test_rows_read_back_as_they_were(tmp_path: Path, form: str, batches: list[list[dict[str, Any]]]) -> None:
    rows = read(written(tmp_path, form, *batches), form)
    if form == "csv":
        rows = [
            {**row, "index": int(row["index"]), "kl": float(row["kl"]), "flag": row["flag"] == "true"} for row in rows
        ]
    assert rows == ROWS
    assert [math.copysign(1, row["kl"]) for row in rows] == [1, 1, 1, -1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["plain", '100 %d, "%s"', "a\rb", "a\r\nb", "\udcff"], ids=ascii)
def test_rows_of_one_file_are_those_of_any(tmp_path: Path, form: str, name: str) -> None:
    columns = {"index": [0, 1, 2], "kl": [0.1 + 0.2, math.nan, -math.inf], "flag": [True, False, True]}
    found = []
    for names in (Same(name, 3), [name] * 3):
        with (tmp_path / "out").open("wb") as file:
            writer = open_rows(form, file.fileno(), TYPES)
            writer.write({"file": names, **columns})
            writer.end({})
        found.append(read(tmp_path / "out", form))
    assert str(found[0]) == str(found[1])
    assert len(found[0]) == 3
    assert list(Same(name, 3))[1:] == [*Same(name, 3)[1:]] == [Same(name, 3)[0]] * 2


@pytest.mark.parametrize("form", FORMS)
def test_a_document_without_rows_is_whole(tmp_path: Path, form: str) -> None:
    assert read(written(tmp_path, form), form) == []


def test_csv_without_rows_has_its_header(tmp_path: Path) -> None:
    assert written(tmp_path, "csv").read_text() == "file,index,kl,flag\n"


def test_csv_has_one_header_or_none(tmp_path: Path) -> None:
    assert written(tmp_path, "csv", ROWS[:1], ROWS[:1]).read_text().count("file,") == 1
    assert written(tmp_path, "csv", ROWS[:1], header=False).read_text() == "plain,0,0.30000000000000004,true\n"


def test_csv_rows_are_not_held_back_from_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    path = tmp_path / "out"
    with path.open("wb") as file:
        writer = open_rows("csv", file.fileno(), {"index": "int64"})
        writer.abandon()
        found = [path.read_text()]
        for index, seconds in enumerate((0.0, 0.01, 1.0, 0.01)):
            now += seconds
            writer.write({"index": [index]})
            found.append(path.read_text())
        writer.abandon()  # the work has failed
        found.append(path.read_text())
    header = "index\n"
    assert found == ["", f"{header}0\n", f"{header}0\n", *[f"{header}0\n1\n2\n"] * 2, f"{header}0\n1\n2\n3\n"]


def test_csv_that_was_interrupted_is_not_written_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def write(_: int, data: memoryview) -> int:
        taken.append(bytes(data))
        if len(taken) == 2:
            raise KeyboardInterrupt
        return 3

    monkeypatch.setattr(os, "write", write)
    writer = open_rows("csv", 1, {"index": "int64"}, header=False)
    with pytest.raises(KeyboardInterrupt):
        writer.write({"index": [12345]})
    writer.abandon()
    assert taken == [b"12345\n", b"45\n"]


def test_parquet_without_rows_has_its_columns(tmp_path: Path) -> None:
    schema = pyarrow.parquet.read_schema(written(tmp_path, "parquet"))
    assert {field.name: str(field.type) for field in schema} == TYPES


def test_json_holds_the_facts_of_start_and_end(tmp_path: Path) -> None:
    document = json.loads(written(tmp_path, "json", ROWS, facts={"measure": "kl", "x": math.nan}).read_text())
    assert (document["measure"], document["x"], document["end"]) == ("kl", None, 1)


@pytest.mark.parametrize("form", FORMS)
def test_nan_and_infinities_are_null_in_json_and_themselves_elsewhere(tmp_path: Path, form: str) -> None:
    values = [math.nan, math.inf, -math.inf]
    rows = [{**ROWS[0], "kl": value} for value in values]
    read_back = [row["kl"] for row in read(written(tmp_path, form, rows), form)]
    if form == "csv":
        assert read_back == ["nan", "inf", "-inf"]
    elif form == "parquet":
        assert [str(value) for value in read_back] == ["nan", "inf", "-inf"]
    else:
        assert read_back == [None, None, None]


@pytest.mark.parametrize("form", FORMS)
def test_bytes_of_names_that_are_no_text_come_back(tmp_path: Path, form: str) -> None:
    rows = read(written(tmp_path, form, [{**ROWS[0], "file": "a\udcff"}]), form)
    assert rows[0]["file"] == ("a\\udcff" if form == "parquet" else "a\udcff")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["a\rb", "\r", "a\r\nb", '"', "\n", " a ", "\ufeffa", "=1+1", ""])
def test_names_come_back_as_they_were(tmp_path: Path, form: str, name: str) -> None:
    rows = read(written(tmp_path, form, [{**ROWS[0], "file": name}, ROWS[1]]), form)
    assert [row["file"] for row in rows] == [name, ROWS[1]["file"]]


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_names_are_harmless_where_a_terminal_shows_them(form: str) -> None:
    master, terminal = os.openpty()
    writer = open_rows(form, terminal, TYPES)
    writer.write({**{name: [row[name] for row in ROWS] for name in TYPES}, "file": ["\x1b[31m\u202e\x9b\udcff"] * 4})
    writer.end({})
    os.close(terminal)
    text = os.read(master, 1 << 16).decode()
    os.close(master)
    assert all(line.isprintable() and line.isascii() for line in text.splitlines())
    assert "202e" in text


def test_many_rows_are_written_in_groups(tmp_path: Path) -> None:
    path = written(tmp_path, "parquet", *[ROWS * 5000] * 8)
    assert pyarrow.parquet.ParquetFile(path).num_row_groups > 1
    assert pyarrow.parquet.read_table(path).num_rows == 160_000


def test_parquet_goes_through_a_pipe() -> None:
    out, end = os.pipe()
    writer = open_rows("parquet", end, TYPES)
    writer.write({name: [row[name] for row in ROWS] for name in TYPES})
    writer.end({})
    os.close(end)
    with os.fdopen(out, "rb") as file:
        assert pyarrow.parquet.read_table(io.BytesIO(file.read())).to_pylist() == ROWS


def test_parquet_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"pip install 'vae-latentkit\[parquet\]'"):
        check_rows_format("parquet")


def test_jsonable_reaches_into_everything() -> None:
    assert jsonable({"a": [math.nan, (math.inf, {"b": -math.inf})], "c": 1.5}) == {
        "a": [None, [None, {"b": None}]],
        "c": 1.5,
    }


def test_a_pipe_that_takes_a_little_at_a_time_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = b""

    def write(_: int, data: memoryview) -> int:
        nonlocal taken
        taken += bytes(data[:3])
        return min(3, len(data))

    monkeypatch.setattr(os, "write", write)
    write_all(1, b"0123456789")
    assert taken == b"0123456789"
