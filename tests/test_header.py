"""Headers: read as the safetensors library reads them, and nothing trusted before it has looked."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import DTYPES, moments_of
from safetensors import safe_open
from safetensors.torch import save

from latentkit.errors import DataError
from latentkit.read.header import MAX_HEADER_BYTES, read_header

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
