"""NumPy's ``.npy`` files: one array, whose header NumPy's own parser reads."""

import io
import os
import warnings
from functools import lru_cache
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np

from latentkit.errors import DataError
from latentkit.read.header import ELEMENT_BITS, Contents, TensorInfo

#: The key of an array that has no name.
KEY = "array"

#: The dtype of arrays of Python's objects.
PICKLED = "pickled objects"

#: Headers are rarely longer, and never as long as the other: NumPy refuses them.
FIRST_READ = 1 << 9
_MOST_HEADER_BYTES = 10_240

#: What is read in place, by NumPy's names.
DTYPES = {
    "<f8": "F64", "<f4": "F32", "<f2": "F16", "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<i2": "I16", "<u2": "U16",
    "<i4": "I32", "<u4": "U32", "<i8": "I64", "<u8": "U64", "<c8": "C64",
}  # fmt: skip


def contents(path: str, descriptor: int, file_size: int) -> Contents:
    """The one array of the file, which is refused where it cannot be read in place."""
    start = os.read(descriptor, FIRST_READ)
    array = array_at(path, KEY, descriptor, 0, file_size, start)
    if array.dtype == PICKLED:
        raise DataError(f"{path}: holds pickled objects, which latentkit never loads; save the arrays alone")
    if array.dtype not in ELEMENT_BITS:
        raise DataError(
            f"{path}: holds an array of {array.dtype}, shape {list(array.shape)}, which cannot be read as it stands; "
            f"save it in C order as float16, float32 or float64, or as safetensors"
        )
    return Contents({KEY: array}, {}, sha256(start[: array.offset]).hexdigest())


def array_at(path: str, key: str, descriptor: int, offset: int, size: int, start: bytes) -> TensorInfo:
    """The array of an ``.npy`` of ``size`` bytes at ``offset`` of the file, which begins with ``start``.

    Where it cannot be read in place its dtype is a name that says so. Raises ``DataError`` when it is no ``.npy``, or
    not a whole one.
    """
    where = path if key == KEY else f"{path}: {key!r}"
    end = _header_end(start)
    if len(start) < end <= min(_MOST_HEADER_BYTES, size):
        os.lseek(descriptor, offset, os.SEEK_SET)
        start = os.read(descriptor, end)
    try:
        dtype, itemsize, shape = _parsed(start[:end])
    except Exception as error:  # whatever a damaged header makes of NumPy's parser, and that of Python 2's headers
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{where}: not an .npy file, or a damaged one ({reason})", kind="damaged") from error
    if dtype == PICKLED:
        return TensorInfo(key, dtype, shape, offset + end, size - end)
    nbytes = prod(shape) * itemsize
    if end + nbytes > size:
        raise DataError(
            f"{where}: truncated: its array should be {nbytes:,} bytes, and {size - end:,} are there; copy it again",
            kind="damaged",
        )
    if end + nbytes < size:
        raise DataError(
            f"{where}: has {size - end - nbytes:,} bytes behind its array, perhaps another one: save each array to a "
            f"file of its own, or all with np.savez"
        )
    return TensorInfo(key, dtype, shape, offset + end, nbytes)


def _header_end(start: bytes) -> int:
    """Where the array begins, so that equal headers are the same bytes whatever comes behind them."""
    size = 2 if start[6:7] == b"\x01" else 4
    return 8 + size + int.from_bytes(start[8 : 8 + size], "little")


# A folder of a million images has few headers.
@lru_cache(maxsize=1024)
def _parsed(header: bytes) -> tuple[str, int, tuple[int, ...]]:
    """A header's dtype, its name and size, and shape; raises ``ValueError`` and the like where NumPy does."""
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format {version[0]}.{version[1]}, which only arrays of records have")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings(action="ignore"):  # that Python 2 wrote it
        shape, fortran, dtype = read(stream)
    if any(size < 0 for size in shape):
        raise ValueError(f"its shape is {list(shape)}")
    return _name(dtype, fortran and sum(size > 1 for size in shape) > 1), dtype.itemsize, shape


def _name(dtype: np.dtype[Any], fortran: bool) -> str:
    name = DTYPES.get(dtype.str)
    if name is not None:
        return f"{name} in Fortran order" if fortran else name
    if dtype.hasobject:
        return PICKLED
    if dtype.byteorder == ">":
        return f"{dtype.name} in big-endian order"
    return "records" if dtype.names else f"raw {dtype.itemsize}-byte values" if dtype.kind == "V" else dtype.name
