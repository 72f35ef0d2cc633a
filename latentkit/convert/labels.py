"""Labels of samples where known tools keep them, but for tensors: a function for each way, by ``Preset.labels``."""

import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from latentkit.errors import DataError
from latentkit.read.bytes import as_bytes, read_bytes
from latentkit.read.choice import Posterior
from latentkit.read.header import read_header

_DATASET = "dataset.json"
# Bytes: there is room for five million images in it.
_MOST_DATASET = 256 << 20


class Labels(NamedTuple):
    """The label of each posterior, of those that have one; and the classes' names, if they have any."""

    values: Mapping[Posterior, int]
    classes: Sequence[str] = ()


def find_labels(posteriors: Sequence[Posterior]) -> Labels:
    """The labels of inputs, as the presets that they are read by keep them.

    Raises ``DataError`` where some of them have a label and others none, or they are not whole numbers.
    """
    groups: dict[str, list[Posterior]] = {}
    for posterior in posteriors:
        if posterior.preset is not None and posterior.preset.labels in KINDS:
            groups.setdefault(posterior.preset.labels, []).append(posterior)
    values: dict[Posterior, int] = {}
    classes: list[str] = []
    for kind, group in groups.items():
        found = KINDS[kind](group)
        without = next((posterior for posterior in group if posterior not in found.values), None)
        if found.values and without is not None:
            raise DataError(f"{without.label}: has no label ({kind}), unlike others; --no-labels converts without them")
        values |= found.values
        classes += found.classes
    return Labels(values, classes)


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
            values[posterior] = label
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
            values[posterior] = label
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
    return Labels({posterior: numbers[name] for posterior, name in folders.items() if name}, classes)


def _by_twin(posteriors: Sequence[Posterior]) -> Labels:
    """fast-DiT's: in a folder beside, a file of the same name."""
    values = {}
    there: dict[str, bool] = {}
    for posterior in posteriors:
        folder, name = os.path.split(posterior.file.path)
        twins = folder.removesuffix("_features") + "_labels"
        if there.setdefault(twins, os.path.isdir(twins)) and os.path.exists(path := os.path.join(twins, name)):
            values[posterior] = _single_number(path)
    return Labels(values)


def _by_name(posteriors: Sequence[Posterior]) -> Labels:
    """Those of arrays that convert wrote, one per sample: labels-….npy beside moments-….npy."""
    values = {}
    for posterior in posteriors:
        folder, name = os.path.split(posterior.file.path)
        stem, dash, number = name.partition("-")
        path = os.path.join(folder, f"labels{dash}{number}")
        if stem in ("moments", "latents") and os.path.exists(path):
            values[posterior] = _single_number(path)
    return Labels(values)


def _single_number(path: str) -> int:
    header = read_header(path)
    (array,) = header.tensors.values()
    if array.dtype != "I64" or array.elements != 1:
        raise DataError(f"{path}: a label is one I64, and this is {array.dtype} {list(array.shape)}")
    label = np.empty(1, np.int64)
    read_bytes(header, array.offset, as_bytes(label))
    return int(label[0])


#: Ways of keeping labels, by what presets call them.
KINDS: dict[str, Callable[[Sequence[Posterior]], Labels]] = {
    "dataset.json": _by_dataset,
    "dataset.json in the zip": _by_dataset_in_zip,
    "the folder's name": _by_folder,
    "the folder …_labels": _by_twin,
    "labels-….npy beside": _by_name,
}
