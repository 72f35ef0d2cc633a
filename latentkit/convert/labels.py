"""Labels of samples where known tools keep them, but for tensors: a function for each way, by ``Preset.labels``."""

import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from latentkit.convert.units import LABELS_KEY, Unit
from latentkit.errors import DataError
from latentkit.read.bytes import HELD_AS, read_at
from latentkit.read.choice import Posterior
from latentkit.read.header import read_header
from latentkit.read.presets import LABELS_BESIDE, fitting
from latentkit.text import count_of

_DATASET = "dataset.json"
# Bytes: there is room for five million images in it.
_MOST_DATASET = 256 << 20
_WHOLE = ("I64", "I32", "I16", "I8", "U32", "U16", "U8")


class Labels(NamedTuple):
    """The labels of each posterior's rows, of those that have some; and the classes' names, if they have any."""

    values: Mapping[Posterior, Sequence[int]]
    classes: Sequence[str] = ()


def find_labels(units: Sequence[Unit]) -> Labels:
    """The labels of inputs that have none as a tensor, where the presets that they are read by keep them.

    Raises ``DataError`` where some inputs have labels and others none, or they are not whole numbers.
    """
    groups: dict[str, list[Posterior]] = {}
    for posterior in (unit.rows for unit in units if LABELS_KEY not in unit.tensors):
        groups.setdefault(_kind_of(posterior), []).append(posterior)
    values: dict[Posterior, Sequence[int]] = {}
    classes: list[str] = []
    for kind, group in groups.items():
        found = KINDS[kind](group)
        values |= found.values
        classes += found.classes
    without = [unit.rows for unit in units if LABELS_KEY not in unit.tensors and unit.rows not in values]
    if 0 < len(without) < len(units):
        raise DataError(f"{without[0].label}: has no label, unlike others; --no-labels converts without them")
    return Labels(values, classes)


def _kind_of(posterior: Posterior) -> str:
    """How the posterior's labels are kept, whether a preset or flags say how it is read."""
    presets = [posterior.preset] if posterior.preset else fitting(posterior.header)
    return next((preset.labels for preset in presets if preset.labels in KINDS), LABELS_BESIDE)


def _by_dataset(posteriors: Sequence[Posterior]) -> Labels:
    """EDM2's and REPA's dataset.json, in the folder of the images or the one above."""
    folders: dict[str, tuple[str, Mapping[str, int]]] = {}
    read: dict[str, Mapping[str, int]] = {}
    values = {}
    for posterior in posteriors:
        folder, name = os.path.split(posterior.file.path)
        if folder not in folders:
            folders[folder] = _dataset_for(folder, read)
        prefix, labels = folders[folder]
        if (label := labels.get(prefix + name)) is not None:
            values[posterior] = (label,)
    return Labels(values)


def _dataset_for(folder: str, read: dict[str, Mapping[str, int]]) -> tuple[str, Mapping[str, int]]:
    """What is before a name of the folder in the dataset.json that knows it, and its labels."""
    above, last = os.path.split(os.path.abspath(folder))
    for place, prefix in ((folder, ""), (above, f"{last}/")):
        path = os.path.join(place, _DATASET)
        if path not in read and os.path.isfile(path):
            with open(path, "rb") as file:
                read[path] = _labels_in(file.read(_MOST_DATASET + 1), path)
        if path in read:
            return prefix, read[path]
    return "", {}


def _by_dataset_in_zip(posteriors: Sequence[Posterior]) -> Labels:
    read: dict[str, Mapping[str, int]] = {}
    values = {}
    for posterior in posteriors:
        path = posterior.file.path
        if path not in read:
            with zipfile.ZipFile(path) as archive:
                there = archive.NameToInfo.get(_DATASET)
                read[path] = {}
                if there is not None:
                    with archive.open(there) as member:
                        read[path] = _labels_in(member.read(_MOST_DATASET + 1), f"{path}: {_DATASET}")
        if (label := read[path].get(f"{posterior.key}.npy")) is not None:
            values[posterior] = (label,)
    return Labels(values)


def _labels_in(data: bytes, where: str) -> Mapping[str, int]:
    try:
        if len(data) > _MOST_DATASET:
            raise ValueError(f"it is over {_MOST_DATASET >> 20} MiB long")
        labels = dict(json.loads(data)["labels"] or ())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f'{where}: needs "labels", a list of name and label, or null ({str(error)[:80]})') from error
    for name, label in labels.items():
        if type(label) is not int or not -(1 << 63) <= label < 1 << 63:
            raise DataError(
                f"{where}: the label of {name!r} is {str(label)[:40]}, which is no whole number; --no-labels converts "
                f"without them"
            )
    return labels


def _by_folder(posteriors: Sequence[Posterior]) -> Labels:
    """The number of an image's folder among all, in order of their names, as torchvision's ImageFolder counts them."""
    folders = {posterior: os.path.basename(os.path.dirname(posterior.file.name)) for posterior in posteriors}
    classes = sorted(set(folders.values()) - {""})
    numbers = {name: number for number, name in enumerate(classes)}
    return Labels({posterior: (numbers[name],) for posterior, name in folders.items() if name}, classes)


def _by_twin(posteriors: Sequence[Posterior]) -> Labels:
    """fast-DiT's: in a folder beside, a file of the same name."""
    values = {}
    there: dict[str, bool] = {}
    for posterior in posteriors:
        folder, name = os.path.split(posterior.file.path)
        twins = folder.removesuffix("_features") + "_labels"
        if there.setdefault(twins, os.path.isdir(twins)) and os.path.exists(path := os.path.join(twins, name)):
            values[posterior] = _numbers_in(path, posterior.samples)
    return Labels(values)


def _by_name(posteriors: Sequence[Posterior]) -> Labels:
    """Those of arrays that convert wrote: labels-….npy beside moments-….npy."""
    values = {}
    for posterior in posteriors:
        folder, name = os.path.split(posterior.file.path)
        stem, dash, number = name.partition("-")
        path = os.path.join(folder, f"labels{dash}{number}")
        if stem in ("moments", "latents") and name.endswith(".npy") and os.path.exists(path):
            values[posterior] = _numbers_in(path, posterior.samples)
    return Labels(values)


def _numbers_in(path: str, rows: int) -> Sequence[int]:
    """An array's whole numbers, one per row; one alone is that of all, as of an image and its mirror."""
    header = read_header(path)
    (array,) = header.tensors.values()
    if array.dtype not in _WHOLE or array.elements not in (1, rows):
        raise DataError(
            f"{path}: labels of {count_of(rows, 'sample')} are so many whole numbers, and this is {array.dtype} "
            f"{list(array.shape)}; --no-labels converts without them"
        )
    labels = np.empty(array.elements, HELD_AS[array.dtype])
    read_at(header, array, 0, labels)
    found: list[int] = labels.tolist()
    return found * (rows // max(1, len(found)))


#: Ways of keeping labels, by what presets call them.
KINDS: dict[str, Callable[[Sequence[Posterior]], Labels]] = {
    "dataset.json": _by_dataset,
    "dataset.json in the zip": _by_dataset_in_zip,
    "the folder's name": _by_folder,
    "the folder …_labels": _by_twin,
    LABELS_BESIDE: _by_name,
}
