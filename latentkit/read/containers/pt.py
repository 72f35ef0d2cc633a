"""What ``torch.save`` wrote: a tensor, or dicts and lists of tensors. Nothing is unpickled but by torch's own
``weights_only``, which makes tensors and plain values, and it is not given the data."""

import os
import re
from collections.abc import Iterator
from typing import Any

from latentkit.errors import DataError
from latentkit.read.containers.zipped import directory, stored
from latentkit.read.header import MAX_HEADER_BYTES, Contents, TensorInfo

#: The key of a tensor that has no name.
KEY = "tensor"

_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16",
    "int32": "I32", "uint32": "U32", "int64": "I64", "uint64": "U64", "complex64": "C64",
}  # fmt: skip

# Lists within lists: a few bytes of a pickle can name one list a billion times.
_MOST_VALUES = 1_000_000
_MOST_LEVELS = 32


def contents(path: str, descriptor: int, file_size: int) -> Contents:
    """Every tensor, under its keys joined by dots: ``latents``, ``0.latents``; one alone is called ``tensor``."""
    _refuse_others(path, os.read(descriptor, 4))
    entries, digest = directory(path, descriptor)
    places: dict[int, int] = {}
    for member in stored(path, descriptor, entries, file_size, 16, "save it with torch.save"):
        name = member.name.rpartition("/")[2]
        if name == "data.pkl" and member.size > MAX_HEADER_BYTES:
            raise DataError(f"{path}: its pickle is {member.size:,} bytes; latentkit reads up to {MAX_HEADER_BYTES:,}")
        if name == "byteorder" and member.start != b"little":
            raise DataError(f"{path}: was saved on a big-endian machine; load it with torch and save it again")
        places[member.offset] = member.size
    tensors: dict[str, TensorInfo] = {}
    for key, tensor in _tensors(path, _load(path, descriptor), "", 0, [0]):
        if key in tensors:
            raise DataError(f"{path}: two of its tensors come to be called {key!r}; save it with other keys")
        tensors[key] = _info(path, key, tensor, places)
    return Contents(tensors, {}, digest)


def _refuse_others(path: str, start: bytes) -> None:
    if start[:2] == b"\x1f\x8b":
        raise DataError(
            f"{path}: is compressed with gzip, so it cannot be read in place; unpack it: gunzip < FILE > OTHER.pt"
        )
    if start != b"PK\3\4":
        raise DataError(
            f"{path}: not a file of torch.save as it has been since torch 1.6; load it with torch and save it again"
        )


def _load(path: str, descriptor: int) -> Any:
    """What was saved, with tensors that have no data, but know where in the file it is."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        with open(descriptor, "rb", closefd=False) as file, FakeTensorMode():
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle makes of torch's unpickler
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise DataError(
                f"{path}: holds {found[1]}, which only its own program can load: latentkit takes tensors, and dicts "
                f"and lists of them; save these alone"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0].removesuffix(".")
        raise DataError(
            f"{path}: torch cannot load it: it is damaged, or holds more than tensors ({reason})"
        ) from error


def _tensors(path: str, value: Any, key: str, level: int, seen: list[int]) -> Iterator[tuple[str, Any]]:
    """Every tensor within dicts, lists and tuples; other values are passed over."""
    import torch

    seen[0] += 1
    if level > _MOST_LEVELS or seen[0] > _MOST_VALUES:
        raise DataError(f"{path}: holds over {_MOST_VALUES:,} values, or more than {_MOST_LEVELS} levels of them")
    if isinstance(value, torch.Tensor):
        yield key or KEY, value
    elif isinstance(value, dict | list | tuple):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(path, part, f"{key}.{name}" if key else str(name), level + 1, seen)


def _info(path: str, key: str, tensor: Any, places: dict[int, int]) -> TensorInfo:
    """Where the tensor is, if its elements stand in the file in order; else its dtype is a name that says why not."""
    import torch

    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    dtype = _NAMES.get(dtype, dtype)
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return TensorInfo(key, f"{dtype} ({tensor.layout})", shape, 0, 0)
    nbytes = tensor.numel() * tensor.element_size()
    if not tensor.is_contiguous() or tensor.is_neg():
        return TensorInfo(key, f"{dtype} (strided)", shape, 0, nbytes)
    storage = tensor.untyped_storage()
    # The storage's own size is not to be trusted: torch 2.7 gives a multiple of it.
    begin = getattr(storage, "_checkpoint_offset", None)
    first = tensor.storage_offset() * tensor.element_size()
    if nbytes and (begin is None or first + nbytes > places.get(begin, -1)):
        raise DataError(f"{path}: damaged: the data of {key!r} is not where it should be", kind="damaged")
    return TensorInfo(key, dtype, shape, (begin or 0) + first, nbytes)
