"""Containers: what is not safetensors is read where it lies, gives the same bits, and is trusted no more."""

import gzip
import io
import json
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DTYPES, Cli, moments_of
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor

from latentkit.errors import DataError, RequestError
from latentkit.read.bytes import read_chunks
from latentkit.read.header import CONTAINERS, ELEMENT_BITS, read_header
from latentkit.read.inputs import find_inputs


def npy_of(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def write_zip(path: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("dataset.json", '{"labels": null}')
        for name, data in members.items():
            archive.writestr(f"00000/{name}.npy", data)


#: A way to write one tensor in each container, and the key it then has.
WRITERS: dict[str, tuple[str, Callable[[Path, Tensor], object]]] = {
    "a.safetensors": ("moments", lambda path, tensor: save_file({"moments": tensor}, path)),
    "a.latent": ("moments", lambda path, tensor: save_file({"moments": tensor}, path)),
    "a.npy": ("array", lambda path, tensor: np.save(path, tensor.numpy())),
    "a.npz": ("moments", lambda path, tensor: np.savez(path, moments=tensor.numpy(), labels=np.arange(5))),
    "a.zip": ("00000/a", lambda path, tensor: write_zip(path, a=npy_of(tensor.numpy()))),
    "a.pt": ("latent_dist.parameters", lambda path, tensor: torch.save({"latent_dist": {"parameters": tensor}}, path)),
    "a.pth": ("0.moments", lambda path, tensor: torch.save([{"moments": tensor, "path": "a.png"}, 3], path)),
}


def data_of(path: Path, key: str) -> bytes:
    header = read_header(str(path))
    tensor = header.tensors[key]
    return b"".join(bytes(chunk) for chunk in read_chunks(header, tensor, 0, tensor.nbytes))


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_header(str(path))
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


# ---- the same bits ------------------------------------------------------------------------------------------------


def test_every_suffix_is_tried() -> None:
    assert {Path(name).suffix for name in WRITERS} == set(CONTAINERS)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
def test_key_dtype_shape_and_bytes_are_those_that_were_saved(tmp_path: Path, name: str, dtype: str) -> None:
    key, write = WRITERS[name]
    moments = moments_of(dtype=dtype)
    write(tmp_path / name, moments)
    header = read_header(str(tmp_path / name))
    info = header.tensors[key]
    assert (info.key, info.dtype, info.shape, info.nbytes) == (key, dtype, tuple(moments.shape), moments.nbytes)
    assert data_of(tmp_path / name, key) == moments.numpy().tobytes()
    assert len(header.digest) == 64


@pytest.mark.parametrize("name", WRITERS)
def test_kl_stats_and_samples_are_the_same_from_every_container(cli: Cli, tmp_path: Path, name: str) -> None:
    moments = moments_of(50)
    for folder, file in (("one", "a.safetensors"), ("other", name)):
        (tmp_path / folder).mkdir()
        WRITERS[file][1](tmp_path / folder / file, moments)
    # Noise goes by the key, too.
    mode = () if WRITERS[name][0] == "moments" else ("--mode",)
    came = []
    for path in ("one/a.safetensors", f"other/{name}"):
        assert cli("sample", path, "-o", f"{path}.safetensors", "--stream", "x", *mode).status == 0
        latents = load_file(tmp_path / f"{path}.safetensors")["latents"]
        assert cli("nll", path, "--latents", f"{path}.safetensors").status == 0
        assert cli("report", path, "-o", f"{path}.html").status == 0
        kl, stats = cli("kl", path), cli("stats", path).json
        assert [row["index"] for row in kl.rows] == [str(index) for index in range(50)]
        histograms = [channel["histogram"] for channel in stats["per_channel"]]
        came.append((kl.values("kl"), latents.tobytes(), stats["normalization"], histograms))
    assert came[0] == came[1]


@pytest.mark.parametrize("dtype", [*DTYPES, "I64", "BOOL", "U8"])
def test_torch_files_hold_every_dtype(tmp_path: Path, dtype: str) -> None:
    others = {"I64": torch.int64, "BOOL": torch.bool, "U8": torch.uint8}
    tensor = torch.arange(6).view(2, 3).to({**DTYPES, **others}[dtype])
    torch.save({"x": tensor}, tmp_path / "a.pt")
    assert read_header(str(tmp_path / "a.pt")).tensors["x"].dtype == dtype
    assert data_of(tmp_path / "a.pt", "x") == bytes(tensor.view(-1).view(torch.uint8).tolist())


def test_views_of_one_storage_are_where_they_are(tmp_path: Path) -> None:
    whole = moments_of(6)
    torch.save({"a": whole[1:3], "b": {"c": whole[4], "d": [whole]}, "size": (3, 4)}, tmp_path / "a.pt")
    parts = {"a": whole[1:3], "b.c": whole[4], "b.d.0": whole}
    assert list(read_header(str(tmp_path / "a.pt")).tensors) == list(parts)
    for key, part in parts.items():
        assert data_of(tmp_path / "a.pt", key) == part.numpy().tobytes()


def test_a_bare_tensor_of_torch_is_read_too(cli: Cli, tmp_path: Path) -> None:
    torch.save(torch.nn.Parameter(moments_of()), tmp_path / "a.pt")
    assert data_of(tmp_path / "a.pt", "tensor") == moments_of().numpy().tobytes()
    assert [row["tensor"] for row in cli("kl", "a.pt", "--key", "tensor", "--layout", "bchw").rows] == ["tensor"] * 5


def test_members_of_one_zip_are_samples(cli: Cli, tmp_path: Path) -> None:
    moments = moments_of(12)
    np.save(tmp_path / "all.npy", moments.numpy())
    write_zip(tmp_path / "a.zip", **{f"img-{i:02}": npy_of(moments[i].numpy()) for i in range(12)})
    outcome = cli("kl", "a.zip", "--key", "*", "--layout", "chw")
    assert "00000/img-00 and 11 more: 4 channels = 2 mean + 2 logvar, chw" in outcome.err
    assert [row["tensor"] for row in outcome.rows] == [f"00000/img-{i:02}" for i in range(12)]
    assert [row["kl"] for row in outcome.rows] == [row["kl"] for row in cli("kl", "all.npy").rows]


def test_arrays_of_other_kinds_beside_are_listed_and_not_read(cli: Cli, tmp_path: Path) -> None:
    others = {"names": np.array(["a", "b"]), "pickled": np.array([None, 1]), "odd": np.zeros(2, ">f4")}
    others |= {"order": np.asfortranarray(np.zeros((2, 2))), "flat": np.zeros((5, 1), order="F"), "none": np.zeros(())}
    np.savez(tmp_path / "a.npz", moments=moments_of().numpy(), **others)
    tensors = read_header(str(tmp_path / "a.npz")).tensors
    assert {key for key, tensor in tensors.items() if tensor.dtype in ELEMENT_BITS} == {"moments", "flat", "none"}
    assert cli("kl", "a.npz").status == 0
    assert "is pickled objects" in cli("kl", "a.npz", "--key", "pickled").complaint
    assert "big-endian" in cli("stats", "a.npz", "--key", "odd").complaint
    assert "cannot be carried" in cli("sample", "a.npz", "-o", "out", "--key", "moments", "--carry", "order").complaint


def test_tensors_that_do_not_stand_in_order_are_listed_and_not_read(cli: Cli, tmp_path: Path) -> None:
    image = moments_of(2).to(memory_format=torch.channels_last)
    torch.save({"turned": image, "b": torch.zeros(3).expand(2, 3)}, tmp_path / "a.pt")
    assert not any(tensor.is_float for tensor in read_header(str(tmp_path / "a.pt")).tensors.values())
    assert "F32 (strided)" in cli("kl", "a.pt", "--key", "turned").complaint
    torch.save(torch.eye(2).to_sparse(), tmp_path / "b.pt")
    with suppress(DataError):  # old versions of torch cannot load it without its data
        assert not any(tensor.is_float for tensor in read_header(str(tmp_path / "b.pt")).tensors.values())


# ---- folders and outputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["d", "d/**", "d/*.np*"])
def test_a_search_takes_others_only_where_no_safetensors_are(cli: Cli, tmp_path: Path, argument: str) -> None:
    (tmp_path / "d").mkdir()
    for name in ("b.npy", "a.npy"):
        np.save(tmp_path / "d" / name, moments_of().numpy())
    outcome = cli("kl", argument)
    assert [row["file"] for row in outcome.rows][::5] == ["d/a.npy", "d/b.npy"]
    assert "no .safetensors there: read 2 .npy files" in outcome.err
    assert "2 .npy" not in cli("kl", "d/a.npy").err
    save_file({"moments": moments_of()}, tmp_path / "d/c.safetensors")
    names = [file.name for file in find_inputs([argument])]
    assert names == (["a.npy", "b.npy"] if "np" in argument else ["c.safetensors"])


def test_a_search_passes_over_labels_and_names_in_files_of_their_own(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d/labels.npy", np.arange(5))
    torch.save([{"crop": (3, 4), "path": "a.png"}], tmp_path / "d/aggregate.pt")
    assert "it holds no tensors" in cli("kl", "d").complaint
    torch.save({"moments": moments_of()}, tmp_path / "d/moments.pt")
    outcome = cli("kl", "d")
    assert len(outcome.rows) == 5
    assert "passed over 2 files without floating-point tensors" in outcome.err
    assert "holds no tensors" in cli("kl", "d/aggregate.pt").complaint
    assert cli("info", "d").json["files"][0]["tensors"] == []


# Files that a tool writes beside its caches, where a search finds both: (the cache, what stands beside it).
BESIDE = {
    "text features, as U-ViT has them": ("train/7.npy", {"train/7_0.npy": (77, 768), "empty_context.npy": (77, 768)}),
    "features of a batch": (
        "vae-sd/00000/img-mean-std-00000000.npy",
        {"clip.npy": (1, 77, 768), "0.npy": (5, 8, 4, 4)},
    ),
}


@pytest.mark.parametrize("case", BESIDE)
def test_a_search_passes_over_what_the_preset_of_others_does_not_read(cli: Cli, tmp_path: Path, case: str) -> None:
    cache, others = BESIDE[case]
    for name, shape in {cache: (8, 4, 4), **others}.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "d" / name, np.full(shape, 0.5, np.float32))
    outcome = cli("kl", "d")
    assert [row["file"] for row in outcome.rows] == [f"d/{cache}"]
    assert "passed over 2 files of other things, such as d/" in outcome.err
    # What is named is read, or refused, by itself.
    named = cli("kl", "d/" + cache, "d/" + list(others)[1])
    assert len(named.rows) > 1 or "features of texts" in named.complaint


ODD = {"axes": np.zeros((9, 4)), "dtype": np.zeros((8, 4, 4), np.int32)}


@pytest.mark.parametrize("what", ODD)
def test_what_goes_by_a_name_of_a_preset_and_does_not_fit_is_an_error(cli: Cli, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "d/vae-sd/00000"
    folder.mkdir(parents=True)
    for number in range(3):
        np.save(folder / f"img-mean-std-{number:08}.npy", np.full((8, 4, 4), 0.5, np.float32))
    np.save(folder / "statistics.npy", np.zeros((2, 4)))
    np.save(folder / "img-mean-std-00000001.npy", ODD[what])
    outcome = cli("kl", "d")
    assert (outcome.status, outcome.out) == (1, "")
    assert "img-mean-std-00000001.npy: not what preset repa reads" in outcome.complaint
    outcome = cli("kl", "d", "--keep-going", "--errors", "errors.jsonl")
    assert outcome.status == 1 and [row["file"][-6:] for row in outcome.rows] == ["00.npy", "02.npy"]
    assert "passed over 1 file of other things, such as d/vae-sd/00000/statistics.npy" in outcome.err
    assert [json.loads(line)["file"][-6:] for line in (tmp_path / "errors.jsonl").read_text().splitlines()] == [
        "01.npy"
    ]


def test_half_a_file_of_a_preset_is_an_error(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "n01440764").mkdir()
    for number in range(3):
        keys = ("moments", "moments_flip") if number else ("moments",)
        np.savez(tmp_path / f"n01440764/{number}.npz", **{key: np.full((8, 4, 4), 0.5, np.float32) for key in keys})
    np.savez(tmp_path / "fid.npz", mu=np.zeros(8), sigma=np.eye(8))
    assert "n01440764/0.npz: not what preset mar reads" in cli("kl", ".").complaint


def test_drawn_latents_of_a_known_tool_are_found_beside_its_prompts(cli: Cli, tmp_path: Path) -> None:
    for name, key, shape in (("prompts/a", "prompt_embedding", (226, 64)), ("video/a", "encoded_video", (16, 2, 4, 4))):
        (tmp_path / "d" / name).parent.mkdir(parents=True)
        save_file({key: torch.ones(shape)}, tmp_path / "d" / f"{name}.safetensors")
    assert cli("stats", "d").json["read"][0].startswith("encoded_video: 16 channels of latents")
    assert "'encoded_video' holds drawn latents (preset cogvideo" in cli("kl", "d").complaint


def test_what_latentkit_wrote_beside_other_containers_hides_none_of_them(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d/a.npy", moments_of().numpy())
    for times in range(2):
        outcome = cli("sample", "d", "-o", "d/latents", "--overwrite")
        assert len(cli("kl", "d").rows) == 5
        assert ("no other .safetensors there: read 1 .npy file" in outcome.err) is bool(times)
    cli("stats", "d", "--state", "d/state.safetensors")
    assert len(cli("kl", "d").rows) == 5


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("latents.npy", (5, 4, 4, 4), "holds drawn latents (its name says so)"),
        ("train_latents.npy", (5, 4, 4, 4), "holds drawn latents (its name says so)"),
        ("x.npy", (5, 2, 8, 4, 4), "say --preset array-mirrors (logvar), or what its second half is with --param"),
    ],
)
def test_an_array_without_a_name_goes_by_its_file(
    cli: Cli, tmp_path: Path, name: str, shape: tuple[int, ...], said: str
) -> None:
    np.save(tmp_path / name, np.ones(shape, np.float32))
    assert said in cli("kl", name).complaint
    np.save(tmp_path / "moments.npy", np.full(shape, -1, np.float32))
    assert len(cli("kl", "moments.npy").rows) == (10 if shape[1] == 2 else 5)


def test_the_folder_of_a_preset_counts_from_within(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imagenet256_features").mkdir()
    np.save(tmp_path / "imagenet256_features/0.npy", np.ones((1, 4, 4, 4), np.float32))
    monkeypatch.chdir(tmp_path / "imagenet256_features")
    assert "holds drawn latents (preset fast-dit" in cli("kl", ".").complaint


def test_a_zip_is_read_when_named_and_no_folder_search_takes_it(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", a=npy_of(np.zeros(2)))
    assert [file.searched for file in find_inputs([f"{tmp_path}/a.zip", f"{tmp_path}/*.zip"])] == [False, True]
    with pytest.raises(RequestError, match=r"nor .latent, .npy.*a zip file is to be named: .*/a\.zip"):
        find_inputs([str(tmp_path)])


def test_outputs_mirror_any_container_as_safetensors(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d/x").mkdir(parents=True)
    np.savez(tmp_path / "d/x/a.JPEG.npz", moments=moments_of().numpy(), moments_flip=moments_of(seed=1).numpy())
    np.savez(tmp_path / "d/x/b.JPEG.npz", moments=moments_of().numpy(), moments_flip=moments_of(seed=1).numpy())
    assert cli("sample", "d", "-o", "out", "--key", "moments*").status == 0
    out = load_file(tmp_path / "out/x/a.JPEG.safetensors")
    assert sorted(out) == ["latents", "latents_flip"]
    assert len(cli("nll", "d", "--latents", "out", "--key", "moments*").rows) == 20
    assert cli("sample", "d", "-o", "out", "--key", "moments*", "--verify", "out").status in (0, 2)


def test_two_inputs_never_go_to_one_output(cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", moments_of().numpy())
    torch.save({"moments": moments_of()}, tmp_path / "a.pt")
    outcome = cli("sample", "a.npy", "a.pt", "-o", "out")
    assert outcome.status == 2
    assert "would both be written to out/a.safetensors; give one of them" in outcome.complaint


# ---- trusted no more than safetensors ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in WRITERS if "safetensors" not in name and "latent" not in name])
def test_any_cut_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name][1](path, torch.zeros(2, 2))
    data = path.read_bytes()
    for length in range(0, len(data), 1 if name == "a.npy" else 7):
        path.write_bytes(data[:length])
        assert refusal(path)


@pytest.mark.parametrize("name", [name for name in WRITERS if "safetensors" not in name and "latent" not in name])
def test_any_changed_byte_is_read_or_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name][1](path, torch.zeros(2, 2))
    data = path.read_bytes()
    step = 1 if name == "a.npy" else 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for position in range(0, len(data), step):
            for byte in (0, 0xFF, ord("9")):
                path.write_bytes(data[:position] + bytes([byte]) + data[position + 1 :])
                try:
                    tensors = read_header(str(path)).tensors.values()
                except DataError:
                    continue
                for info in tensors:
                    assert info.dtype not in ELEMENT_BITS or info.offset + info.nbytes <= len(data)
                    assert info.nbytes >= 0 <= info.offset


def npy_with(header: str, data: bytes = bytes(16)) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + data


BAD_NPY: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not an .npy file"),
    "other": (b"nothing of the kind", "not an .npy file"),
    "objects": (npy_of(np.array([np.zeros((2, 2)), 3], dtype=object)), "pickled objects, which latentkit never loads"),
    "Fortran": (npy_of(np.asfortranarray(np.zeros((2, 3)))), "Fortran order"),
    "big-endian": (npy_of(np.zeros(2, ">f4")), "float32 in big-endian order"),
    "raw": (npy_of(np.zeros(4, "V2")), "raw 2-byte values"),
    "records": (npy_of(np.zeros(4, [("x", "f4")])), "an array of records"),
    "two arrays": (npy_of(np.zeros(2)) + npy_of(np.zeros(2)), "np.savez"),
    "absurd shape": (npy_with("{'descr':'<f4','fortran_order':False,'shape':(9999999999999999999999,)}"), "truncated"),
    "negative": (npy_with("{'descr':'<f4','fortran_order':False,'shape':(-4,-1)}"), "damaged"),
    "no header": (npy_with("{'descr':'<f4'}"), "damaged"),
    "code": (npy_with("__import__('os').abort()"), "damaged"),
    "nested": (npy_with("(" * 9000), "damaged"),
    "long header": (npy_with("{'descr':'<f4','fortran_order':False,'shape':(4,)}" + " " * 20000), "damaged"),
}


def test_an_npy_of_python_2_is_read_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy_with("{'descr':'<f4','fortran_order':False,'shape':(2L,2L)}"))
    assert read_header(str(tmp_path / "a.npy")).tensors["array"].shape == (2, 2)


@pytest.mark.parametrize("case", BAD_NPY)
def test_an_npy_that_cannot_be_read_in_place_is_one_sentence(tmp_path: Path, case: str) -> None:
    data, words = BAD_NPY[case]
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    assert words in refusal(path)


def doubled(data: bytes) -> bytes:
    """The zip file with a directory that says that every member is twice as long."""
    begin = data.index(b"PK\1\2")
    sizes = struct.pack("<LL", *(2 * size for size in struct.unpack_from("<LL", data, begin + 20)))
    return data[: begin + 20] + sizes + data[begin + 28 :]


def test_a_zip_that_cannot_be_read_in_place_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, moments=np.zeros((9, 9)))
    assert "is compressed" in refusal(path)
    assert "np.savez" in refusal(path)
    path.write_bytes(b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 65535, 65535, 1 << 31, 0, 0))
    assert "not a zip file" in refusal(path)
    path.write_bytes(b"nothing of the kind")
    assert "not a zip file" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.png", b"")
    assert "holds no .npy" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy_of(np.zeros(3)))
    path.write_bytes(doubled(path.read_bytes()))
    assert "not where its directory says" in refusal(path)


def test_a_directory_that_would_fill_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    size = 300 << 20
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 65535, 65535, size, 0, 0))
    assert "directory is over 256 MiB" in refusal(path)


def test_names_of_members_lead_nowhere(cli: Cli, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("../../moments.npy", npy_of(moments_of().numpy()))
    assert cli("sample", "a.npz", "-o", "out").status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.safetensors"]


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def lists_of_lists() -> list[Any]:
    lists: list[Any] = []
    for _ in range(30):
        lists = [lists, lists]
    return lists


BAD_TORCH: dict[str, tuple[Any, str]] = {
    "a class": (DataError("x"), "holds latentkit.errors.DataError"),
    "a trap": (Trap(), "holds getattr"),
    "an array of NumPy": ({"latents": np.zeros(3)}, "_reconstruct"),
    "one key twice": ({"a": {"b": torch.zeros(1)}, "a.b": torch.zeros(1)}, "two of its tensors"),
    "a billion lists": (lists_of_lists(), "values"),
    "no data": (torch.zeros(3, device="meta"), "not where it should be"),
}


@pytest.mark.parametrize("case", BAD_TORCH)
def test_a_torch_file_of_anything_else_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    value, words = BAD_TORCH[case]
    torch.save(value, tmp_path / "a.pt")
    start = time.perf_counter()
    assert words in refusal(tmp_path / "a.pt")
    assert time.perf_counter() - start < 20
    assert not (tmp_path / "sprung").exists()


def test_what_lies_otherwise_than_torch_thinks_is_refused(tmp_path: Path) -> None:
    """Torch works out where data is; a zip made again by another program has it elsewhere."""
    torch.save({"a": torch.ones(100), "b": torch.zeros(100)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for entry in reversed(old.infolist()):
            new.writestr(entry.filename, old.read(entry))
    try:
        assert data_of(tmp_path / "b.pt", "a") == torch.ones(100).numpy().tobytes()
    except DataError as error:
        assert "not where it should be" in str(error)


def test_other_files_of_torch_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(torch.zeros(3), path, _use_new_zipfile_serialization=False)
    assert "since torch 1.6" in refusal(path)
    torch.save(torch.zeros(3), path)
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(whole))
    assert "gzip" in refusal(path)
    path.write_bytes(whole.replace(b"little", b"big\0\0\0"))
    assert "big-endian" in refusal(path)


def test_torch_is_loaded_only_for_its_own_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", moments_of().numpy())
    np.savez(tmp_path / "b.npz", moments=moments_of().numpy())
    code = """
import sys
from latentkit.cli.main import main
sys.argv = ["latentkit", "kl", "a.npy", "b.npz", "-o", "kl.csv"]
try:
    main()
finally:
    assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_preset_that_the_data_contradicts_gives_no_number(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for number in range(3):
        np.save(tmp_path / "d" / f"{number}.npy", moments_of(1, seed=number)[0].numpy())
    for command in (("kl", "d"), ("sample", "d", "-o", "out")):
        outcome = cli(*command, "--preset", "array-std", "--quiet")
        assert (outcome.status, "has a negative standard deviation" in outcome.complaint) == (1, True)
    assert not (tmp_path / "out").exists()
