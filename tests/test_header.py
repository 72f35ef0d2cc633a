"""Headers: read as the safetensors library reads them, and nothing trusted before it has looked."""

import json
import os
import re
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest
import torch
from conftest import DTYPES, moments_of
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.torch import save

from latentkit.errors import DataError
from latentkit.read.bytes import HELD_AS
from latentkit.read.header import ELEMENT_BITS, FLOATS, MAX_HEADER_BYTES, read_header

Write = Callable[..., Path]


@pytest.mark.parametrize("dtype", [*DTYPES, "I64", "BOOL", "U8"])
def test_key_dtype_shape_and_bytes_are_where_the_header_says(write: Write, dtype: str) -> None:
    others = {"I64": torch.int64, "BOOL": torch.bool, "U8": torch.uint8}
    tensor = torch.arange(6).view(2, 3).to({**DTYPES, **others}[dtype])
    path = write("a.safetensors", x=torch.zeros(5), moments=tensor)
    info = read_header(str(path)).tensors["moments"]
    assert (info.key, info.dtype, info.shape, info.elements) == ("moments", dtype, (2, 3), 6)
    data = path.read_bytes()[info.offset : info.offset + info.nbytes]
    assert data == bytes(tensor.view(-1).view(torch.uint8).tolist())


def test_metadata_and_keys_agree_with_the_library(write: Write) -> None:
    path = write("a.safetensors", {"é": "\x1b", "b": "2"}, moments=moments_of(), other=torch.zeros(0, 3))
    header = read_header(str(path))
    with safe_open(path, "np") as file:
        assert header.metadata == file.metadata()
        assert sorted(header.tensors) == sorted(file.keys())


def test_a_file_without_metadata_has_none(write: Write) -> None:
    assert read_header(str(write("a.safetensors", moments=moments_of()))).metadata == {}


def test_the_stamp_tells_a_changed_file(write: Write) -> None:
    path = write("a.safetensors", moments=moments_of())
    before = read_header(str(path)).stamp
    os.utime(path, ns=(0, 0))
    assert read_header(str(path)).stamp != before


def test_any_cut_of_a_file_is_refused(write: Write, tmp_path: Path) -> None:
    data = write("a.safetensors", moments=torch.zeros(2, 2)).read_bytes()
    for length in range(len(data)):
        (tmp_path / "b.safetensors").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"b\.safetensors"):
            read_header(str(tmp_path / "b.safetensors"))


def test_any_changed_byte_of_the_header_is_read_or_refused(tmp_path: Path) -> None:
    data = save({"moments": torch.zeros(2, 2)})
    path = tmp_path / "a.safetensors"
    for position in range(len(data) - 16):
        for byte in (0, 0xFF, ord('"'), ord("9"), ord("{")):
            path.write_bytes(data[:position] + bytes([byte]) + data[position + 1 :])
            try:
                info = next(iter(read_header(str(path)).tensors.values()))
            except DataError:
                continue
            assert info.offset + info.nbytes <= len(data)


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**31, 2**62, 2**64 - 1])
def test_a_header_of_absurd_length_is_refused_without_reading_it(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(DataError, match="header"):
        read_header(str(path))


def test_a_long_header_within_the_limit_is_read(write: Write) -> None:
    path = write("a.safetensors", {"long": "x" * (1 << 20)}, moments=moments_of())
    assert len(read_header(str(path)).metadata["long"]) == 1 << 20


def test_a_missing_file_is_an_error_of_the_operating_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        read_header(str(tmp_path / "gone.safetensors"))


# ---- forms that few writers use, and the library reads -----------------------------------------------------------

ENTRY = '{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}'


def file_of(header: str, data: bytes = bytes(16)) -> bytes:
    return len(header.encode()).to_bytes(8, "little") + header.encode() + data


@pytest.mark.parametrize(
    "header",
    [
        '{"a":["F32",[2,2],[0,16]]}',
        '{"a":{"dtype":{"F32":null},"shape":[2,2],"data_offsets":[0,16]}}',
        '{"a":{"shape":[2,2],"more":[{}],"data_offsets":[0,16],"dtype":"F32"}}',
        f'{{"__metadata__":null,"a":{ENTRY}}}',
        f'{{"\\u005f_metadata__":{{}},"\\u0061":{ENTRY}}}',
        f'{{"a":["U8",[16],[0,16]],"a":{ENTRY}}}',
        f'{{ "a" :{ENTRY}}} \n\t ',
    ],
    ids=["a list", "a dtype as a map", "more members", "no metadata", "escapes", "a key twice", "white space"],
)
def test_any_form_of_json_that_the_library_reads(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(header))
    info = read_header(str(path)).tensors["a"]
    assert (info.dtype, info.shape, info.nbytes, info.offset) == ("F32", (2, 2), 16, 8 + len(header))


def known_dtypes() -> list[str]:
    """All that the installed library has, in its order: it names them when it is given another."""
    with pytest.raises(SafetensorError) as error:
        deserialize(file_of('{"a":["other",[],[0,0]]}', b""))
    return re.findall(r"`(\w+)`", str(error.value).split("expected")[1])


def test_every_dtype_of_the_library_is_known_by_its_size_and_rank(tmp_path: Path) -> None:
    known = known_dtypes()
    assert [dtype for dtype in ELEMENT_BITS if dtype in known] == known
    for dtype in known:
        data = bytes(ELEMENT_BITS[dtype])
        path = tmp_path / f"{dtype}.safetensors"
        path.write_bytes(file_of(json.dumps({"a": [dtype, [2, 4], [0, len(data)]]}), data))
        assert read_header(str(path)).tensors["a"].nbytes == len(data)


def test_what_is_computed_with_is_held_in_as_many_bits() -> None:
    assert set(FLOATS) <= set(HELD_AS)
    for dtype, held in HELD_AS.items():
        assert held(0).nbytes * 8 == ELEMENT_BITS[dtype]


def test_tensors_without_elements_have_their_place(tmp_path: Path) -> None:
    shapes = {"z": (0, 2), "a": (2, 2), "y": (0, 2**40, 2**40), "b": (1,)}
    begin, entries = 0, {}
    for key, shape in shapes.items():
        end = begin + 4 * prod(shape)
        entries[key] = ["F32", shape, [begin, end]]
        begin = end
    header = json.dumps(entries)
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of(header, bytes(begin)))
    found = read_header(str(path)).tensors
    assert {key: info.offset - 8 - len(header) for key, info in found.items()} == {
        key: entry[2][0] for key, entry in entries.items()
    }


def test_equal_headers_are_held_once_and_told_apart_by_their_size(write: Write, tmp_path: Path) -> None:
    one, other = (write(f"{value}.safetensors", moments=torch.full((2, 8), value)) for value in (1.0, 2.0))
    assert read_header(str(one)).tensors is read_header(str(other)).tensors
    short = tmp_path / "short.safetensors"
    short.write_bytes(one.read_bytes()[:-4])
    with pytest.raises(DataError, match="truncated"):
        read_header(str(short))
    for number in range(200):
        path = write("last.safetensors", **{f"{number}": torch.zeros(1, 2)})
        assert list(read_header(str(path)).tensors) == [f"{number}"]
