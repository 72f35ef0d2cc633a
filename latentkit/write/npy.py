"""NumPy's ``.npy``: the header, as NumPy writes it, in front of one array."""

import io

import numpy as np

from latentkit.errors import RequestError
from latentkit.read.containers.npy import DTYPES
from latentkit.write.safetensors import Layout, TensorSpec


def lay_out_npy(key: str, dtype: str, shape: tuple[int, ...]) -> Layout:
    """The layout of a file of one array; raises ``RequestError`` for a dtype that NumPy does not have."""
    names = {ours: theirs for theirs, ours in DTYPES.items()}
    if dtype not in names:
        raise RequestError(f"tensor {key!r} is {dtype}, which .npy cannot hold; safetensors can (--format safetensors)")
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": names[dtype], "fortran_order": False, "shape": shape})
    header = stream.getvalue()
    return Layout(header, {key: len(header)}, len(header) + TensorSpec(dtype, shape).nbytes)
