"""Arrays and tensors in memory -> a header whose bytes lie in them, so that all that reads files reads them as well."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.errors import RequestError
from latentkit.read.header import Header, TensorInfo
from latentkit.read.inputs import InputFile

#: What stands for a file's path, in errors and results.
PATH = "in memory"

#: safetensors' names of dtypes, by NumPy's and torch's, which are the same (NumPy has the small ones of ml_dtypes).
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16",
    "int32": "I32", "uint32": "U32", "int64": "I64", "uint64": "U64",
}  # fmt: skip


def in_memory(arrays: Mapping[str, Any], stream: str = "memory") -> tuple[InputFile, Header]:
    """A file of these tensors, which are not copied where they are contiguous and in the host's memory.

    ``stream`` is its name, which noise goes by. Raises ``RequestError`` for what is no array, or of another dtype.
    """
    tensors, memory, offset = {}, [], 0
    for key, array in arrays.items():
        name, shape, data = _plain(key, array)
        if name not in DTYPES:
            raise RequestError(f"{PATH}: {key!r} is {name}; there are {', '.join(DTYPES)}")
        tensors[key] = TensorInfo(key, DTYPES[name], shape, offset, data.nbytes)
        memory.append((offset, data))
        offset += data.nbytes
    return InputFile(PATH, stream, "", searched=False), Header(PATH, (offset, 0), "", tensors, {}, tuple(memory))


def dtype_name(dtype: Any) -> str:
    """The name of a dtype of NumPy or torch, or a name as it is."""
    if isinstance(dtype, str):
        return dtype
    name = str(dtype)
    return name.removeprefix("torch.") if name.startswith("torch.") else np.dtype(dtype).name


def is_tensor(array: Any) -> bool:
    """Whether it is one of torch's, which is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def _plain(key: str, array: Any) -> tuple[str, tuple[int, ...], NDArray[np.uint8]]:
    """The name of an array's dtype, its shape, and its bytes end to end."""
    if is_tensor(array):
        import torch

        if array.layout is not torch.strided or array.device.type == "meta":
            raise RequestError(f"{PATH}: {key!r} is a {array.layout} tensor on {array.device}, which holds no numbers")
        tensor = array.detach().cpu().contiguous()
        return (
            str(tensor.dtype).removeprefix("torch."),
            tuple(tensor.shape),
            tensor.reshape(-1).view(torch.uint8).numpy(),
        )
    if not hasattr(array, "shape") or (numbers := np.asarray(array)).dtype.hasobject:
        raise RequestError(f"expected paths, an array or a tensor, or a pair of them, got {type(array).__name__}")
    numbers = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("=")).reshape(numbers.shape)
    return numbers.dtype.name, numbers.shape, numbers.reshape(-1).view(np.uint8)
