"""The dataset gives what ``sample`` writes, draw by draw, however it is asked."""

import doctest
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DTYPES, SAMPLE_DATA, Cli, moments_of
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

import latentkit
from latentkit import dataset as dataset_module
from latentkit.dataset import LatentDataset, LatentIterableDataset

Write = Callable[..., Path]

DRAWS = 3


@pytest.fixture
def folder(write: Write, tmp_path: Path) -> Path:
    for number, samples in enumerate((5, 1, 7)):
        labels = torch.arange(samples) + 100 * number
        write(f"in/{number}.safetensors", moments=moments_of(samples, 4, dtype="F16", seed=number), labels=labels)
    return tmp_path / "in"


@pytest.fixture
def drawn(folder: Path, cli: Cli, tmp_path: Path) -> Tensor:
    """What the command draws: (draws, samples, ...)."""
    assert cli("sample", folder, "-o", "out", "--draws", DRAWS, "--seed", 5, "--scaling-factor", 0.5).status == 0
    return torch.cat([load_file(path)["latents"] for path in sorted((tmp_path / "out").glob("*"))], dim=1)


def made(source: Any, **options: Any) -> LatentDataset:
    return LatentDataset(source, seed=5, scaling_factor=0.5, **options)


def test_each_epoch_is_a_draw_of_the_command(folder: Path, drawn: Tensor) -> None:
    dataset = made(folder)
    for epoch in (0, 2, 1):
        dataset.set_epoch(epoch)
        assert torch.equal(dataset.batch(range(len(dataset))), drawn[epoch])
        assert torch.equal(torch.stack([dataset[index] for index in range(len(dataset))]), drawn[epoch])
        assert torch.equal(torch.stack(list(dataset)), drawn[epoch])


def test_any_order_gives_each_sample_its_own_latents(folder: Path, drawn: Tensor) -> None:
    dataset = made(folder, columns="labels")
    indices = [12, 0, 5, 5, -1, 3, 6, 11]
    expected = [0, 1, 2, 3, 4, 100, 200, 201, 202, 203, 204, 205, 206]
    latents, labels = dataset.batch(indices)
    assert torch.equal(latents, drawn[0][indices])
    assert labels.tolist() == [expected[index] for index in indices]
    for index, (latents, label) in zip(indices, dataset.__getitems__(indices), strict=True):
        assert torch.equal(latents, drawn[0][index]) and label == expected[index]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_in_files_and_in_memory(write: Write, dtype: str) -> None:
    moments = moments_of(6, 4, dtype=dtype)
    path = write("a.safetensors", moments=moments)
    expected = latentkit.sample(moments, stream="a.safetensors")
    for dataset in (LatentDataset(path), LatentDataset(moments, stream="a.safetensors")):
        batch = dataset.batch([4, 1])
        assert batch.dtype == expected.dtype and torch.equal(batch, expected[[4, 1]])
        assert dataset[0].shape == (4, 3, 4)


@pytest.mark.parametrize("options", [{"mode": True}, {"temperature": 0.5}, {"dtype": torch.float32}, {"limit": 3}])
def test_what_sample_takes_the_dataset_takes(folder: Path, options: dict[str, Any]) -> None:
    dataset = LatentDataset(folder, **options)
    expected = latentkit.sample(folder, **options)
    assert torch.equal(dataset.batch(range(len(dataset))), torch.from_numpy(expected))


def test_normalization_files_are_applied(folder: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("stats", folder, "--save-normalization", "normalization.json", "-o", "stats.json").status == 0
    file = str(tmp_path / "normalization.json")
    normalized = LatentDataset(folder, normalization=file, dtype="float32").batch(range(13))
    assert normalized.std(dim=(0, 2, 3)).sub(1).abs().max() < 0.5
    assert torch.equal(normalized, torch.from_numpy(latentkit.sample(folder, normalization=file, dtype="float32")))


def test_samples_of_several_shapes_come_one_by_one(write: Write, tmp_path: Path) -> None:
    for name, width in (("a", 3), ("b", 5), ("c", 3)):
        write(f"in/{name}.safetensors", moments=moments_of(2, 4, 3, width))
    dataset = LatentDataset(tmp_path / "in")
    items = dataset.__getitems__([5, 2, 0])
    for item, index in zip(items, (5, 2, 0), strict=True):
        assert torch.equal(item, dataset[index])
    assert [tuple(item.shape) for item in items] == [(4, 3, 3), (4, 3, 5), (4, 3, 3)]
    with pytest.raises(latentkit.RequestError, match="one shape"):
        dataset.batch([0, 2])


LOADERS: dict[str, dict[str, Any]] = {
    "in this process": {},
    "forked": {"num_workers": 2, "multiprocessing_context": "fork"},
    "that stay": {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
    "spawned": {"num_workers": 2, "multiprocessing_context": "spawn", "persistent_workers": True},
}


# Forking a process that has threads is what every loader does.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", LOADERS)
def test_workers_give_the_same_in_every_epoch(folder: Path, drawn: Tensor, how: str) -> None:
    dataset = made(folder, columns=["labels"])
    loader = DataLoader(dataset, batch_size=4, **LOADERS[how])
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        latents, labels = zip(*loader, strict=True)
        assert torch.equal(torch.cat(latents), drawn[epoch])
        assert torch.cat(labels).tolist() == dataset.batch(range(13))[1].tolist()


def test_a_loader_without_collating(folder: Path, drawn: Tensor) -> None:
    dataset = made(folder)
    loader = DataLoader(range(len(dataset)), batch_size=4, collate_fn=dataset.batch)  # type: ignore[arg-type]
    assert torch.equal(torch.cat(list(loader)), drawn[0])


def test_distributed_samplers_work_as_they_are(folder: Path, drawn: Tensor) -> None:
    dataset = made(folder)
    got: list[Tensor] = []
    for rank in range(2):
        sampler: DistributedSampler[Any] = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=True)
        got += [item for batch in DataLoader(dataset, batch_size=4, sampler=sampler) for item in batch]
    assert {item.numpy().tobytes() for item in got} == {item.numpy().tobytes() for item in drawn[0]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stream_gives_every_sample_once_among_processes_and_workers(
    folder: Path, drawn: Tensor, workers: int, shuffle: bool
) -> None:
    options: dict[str, Any] = {"seed": 5, "scaling_factor": 0.5, "columns": ["labels"], "shuffle": shuffle, "chunk": 2}
    labels: list[list[int]] = []
    for rank in range(3):
        stream = LatentIterableDataset(folder, rank=rank, world_size=3, **options)
        stream.set_epoch(1)
        labels.append([])
        for latents, label in DataLoader(stream, batch_size=None, num_workers=workers):
            assert torch.equal(latents, drawn[1][label % 100 + (0, 5, 6)[label // 100]])
            labels[-1].append(label)
    ordered = [0, 1, 2, 3, 4, 100, *range(200, 207)]
    together = [label for part in labels for label in part]
    assert sorted(together) == ordered
    assert max(map(len, labels)) - min(map(len, labels)) <= 1
    assert shuffle or workers or together == ordered
    assert not shuffle or together != ordered


def test_processes_of_torchrun_are_known_by_their_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(list(LatentIterableDataset(folder))) == 7


def test_a_copy_of_it_gives_the_same(folder: Path, drawn: Tensor) -> None:
    dataset = made(folder)
    dataset.set_epoch(2)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy.batch([7, 0]), drawn[2][[7, 0]])
    assert torch.equal(pickle.loads(pickle.dumps(LatentDataset(moments_of())))[0], LatentDataset(moments_of())[0])


REFUSED: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "past the end": (lambda folder: LatentDataset(folder)[13], IndexError, "13 samples"),
    "before the start": (lambda folder: LatentDataset(folder)[-14], IndexError, "13 samples"),
    "an epoch below 0": (lambda folder: LatentDataset(folder).set_epoch(-1), latentkit.RequestError, "epoch -1"),
    "no such column": (lambda folder: LatentDataset(folder, columns=["x"]), latentkit.RequestError, "'x'"),
    "drawn latents": (
        lambda _: LatentDataset(moments_of(), parameterization="none"), latentkit.RequestError, "already drawn"
    ),
    "an empty batch": (lambda folder: LatentDataset(folder).batch([]), latentkit.RequestError, "one sample at least"),
    "rank 2 of 2": (
        lambda folder: LatentIterableDataset(folder, rank=2, world_size=2), latentkit.RequestError, "counts from 0"
    ),
    "an empty chunk": (lambda folder: LatentIterableDataset(folder, chunk=0), latentkit.RequestError, "chunk 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said(folder: Path, case: str) -> None:
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call(folder)


def test_a_file_that_changed_is_noticed(folder: Path) -> None:
    dataset = LatentDataset(folder)
    (folder / "0.safetensors").write_bytes(b"nothing")
    with pytest.raises(latentkit.DataError, match="changed"):
        dataset.batch([0, 1])


def test_the_example_of_the_docstring_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SAMPLE_DATA.parent)
    failed, tried = doctest.testmod(dataset_module)
    assert failed == 0 < tried
