"""NumPy's ``.npz`` files, and zip files of ``.npy`` such as EDM2's: arrays that lie in them as they are."""

from latentkit.errors import DataError
from latentkit.read.containers.npy import FIRST_READ, array_at
from latentkit.read.containers.zipped import directory, stored
from latentkit.read.header import Contents

_SUFFIX = ".npy"


def contents(path: str, descriptor: int, file_size: int) -> Contents:
    """Every array, under its member's name without ``.npy``; other members are passed over."""
    entries, digest = directory(path, descriptor)
    arrays = [entry for entry in entries if entry.filename.endswith(_SUFFIX)]
    if not arrays:
        raise DataError(f"{path}: holds no .npy arrays")
    tensors = {}
    for member in stored(path, descriptor, arrays, file_size, FIRST_READ, "save it with np.savez, or zip -0"):
        key = member.name.removesuffix(_SUFFIX)
        tensors[key] = array_at(path, key, descriptor, member.offset, member.size, member.start)
    return Contents(tensors, {}, digest)
