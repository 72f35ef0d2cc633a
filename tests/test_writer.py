"""The streaming writer: headers as the safetensors library writes them."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from latentkit.errors import DataError
from latentkit.read.header import ELEMENT_BITS
from latentkit.write.safetensors import TensorSpec, check_free_space, lay_out, write_at

TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32,
    "U64": torch.uint64, "BOOL": torch.bool, "C64": torch.complex64,
}  # fmt: skip


def _is_known(dtype: torch.dtype) -> bool:
    """Whether the library, which may be an old one, writes it."""
    try:
        save({"a": torch.zeros(1, dtype=dtype)})
    except KeyError:
        return False
    return True


TORCH = {name: dtype for name, dtype in TORCH.items() if _is_known(dtype)}

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda key: key != "__metadata__"
)
specs = st.builds(TensorSpec, st.sampled_from(sorted(TORCH)), st.lists(st.integers(0, 3), max_size=3).map(tuple))


@given(st.dictionaries(names, specs, max_size=8), st.dictionaries(names, names, max_size=1))
def test_the_header_is_that_of_the_library_to_the_byte(
    tensors: dict[str, TensorSpec], metadata: dict[str, str]
) -> None:
    data = save(
        {key: torch.zeros(spec.shape, dtype=TORCH[spec.dtype]) for key, spec in tensors.items()}, metadata or None
    )
    layout = lay_out(tensors, metadata)
    assert layout.header == data[: len(layout.header)]
    assert layout.size == len(data)


def test_metadata_entries_stand_sorted() -> None:
    header = lay_out({}, {"b": "1", "a": "2"}).header
    assert list(json.loads(header[8:])["__metadata__"]) == ["a", "b"]


@pytest.mark.parametrize("dtype", TORCH)
def test_sizes_are_those_of_the_dtypes(dtype: str) -> None:
    assert TensorSpec(dtype, (3, 2)).nbytes == 6 * TORCH[dtype].itemsize


def test_dtypes_of_half_a_byte_are_counted_in_bits() -> None:
    assert ELEMENT_BITS["F4"] == 4
    assert TensorSpec("F4", (3, 2)).nbytes == 3


def test_writes_cut_short_by_the_system_are_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: whole(file, data[:3], offset))
    with open(tmp_path / "a", "wb") as file:
        write_at(file.fileno(), 2, memoryview(b"0123456789"))
    assert (tmp_path / "a").read_bytes() == b"\0\x000123456789"


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    check_free_space(str(tmp_path / "not/yet"), 1)
    with pytest.raises(DataError, match=r"not/yet: the output needs [0-9,]+ bytes and [0-9,]+ are free"):
        check_free_space(str(tmp_path / "not/yet"), 1 << 62)
