"""Caches as known tools write them, file by file: what each is called, its keys, axes, dtypes and neighbours."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape, np.float32)


def tensor(*shape: int) -> Tensor:
    return torch.from_numpy(floats(*shape))


def npy(path: Path, array: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def npz(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def torch_file(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)


def safetensors(path: Path, metadata: dict[str, str] | None = None, **tensors: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)


def mean_std() -> Any:
    return np.concatenate([floats(4, 4, 4), np.abs(floats(4, 4, 4))])


def edm2(root: Path, folder: str = "") -> None:
    names = [f"0000{i % 2}/img-mean-std-0000000{i}.npy" for i in range(5)]
    for name in names:
        npy(root / folder / name, mean_std())
    (root / folder / "dataset.json").write_text(json.dumps({"labels": [[name, 9 - i] for i, name in enumerate(names)]}))


def edm2_unlabelled(root: Path) -> None:
    npy(root / "00000/img-mean-std-00000000.npy", mean_std())
    npy(root / "00000/img-mean-std-00000001.npy", mean_std())
    (root / "dataset.json").write_text('{"labels": null}')


def repa(root: Path) -> None:
    edm2(root, "vae-sd")
    (root / "images/00000").mkdir(parents=True)
    (root / "images/00000/img00000000.png").write_bytes(b"\x89PNG")
    (root / "images/dataset.json").write_text('{"labels": null}')


def edm2_zip(root: Path) -> None:
    root.mkdir(exist_ok=True)
    with zipfile.ZipFile(root / "edm2.zip", "w") as archive:
        for i in range(3):
            stream = io.BytesIO()
            np.save(stream, mean_std())
            archive.writestr(f"00000/img-mean-std-0000000{i}.npy", stream.getvalue())
        labels = [[f"00000/img-mean-std-0000000{i}.npy", i * 2] for i in range(3)]
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


def mar(root: Path) -> None:
    for name in ("n2/b.JPEG", "n1/z.JPEG", "n1/a.JPEG"):
        # Log-variances are stored unclamped.
        npz(root / f"{name}.npz", moments=40 * floats(8, 4, 4), moments_flip=40 * floats(8, 4, 4))


def uvit(root: Path) -> None:
    for part in ("train", "val"):
        for i in range(3):
            npy(root / part / f"{i}.npy", floats(8, 4, 4))
            npy(root / part / f"{i}_0.npy", floats(77, 768))
            npy(root / part / f"{i}_1.npy", floats(77, 768))
            (root / part / f"{i}.png").write_bytes(b"\x89PNG")
    npy(root / "empty_context.npy", floats(77, 768))


def mirrors(root: Path) -> None:
    for i in range(2):
        safetensors(root / f"{i}.safetensors", moments=tensor(3, 2, 8, 4, 4), labels=torch.arange(3) + i)


def mirrors_npy(root: Path) -> None:
    npy(root / "moments.npy", floats(3, 2, 8, 4, 4))


def lightningdit(root: Path) -> None:
    for i in range(2):
        safetensors(
            root / f"vavae/imagenet_train_256/latents_rank00_shard00{i}.safetensors",
            {"total_size": "4", "dtype": "torch.float32", "device": "cuda:0"},
            latents=tensor(4, 8, 2, 2), latents_flip=tensor(4, 8, 2, 2), labels=torch.arange(4) + i,
        )  # fmt: skip
    statistics = {"mean": torch.zeros(1, 8, 1, 1), "std": torch.ones(1, 8, 1, 1)}
    torch_file(root / "vavae/imagenet_train_256/latents_stats.pt", statistics)


def fast_dit(root: Path) -> None:
    for i in (0, 2, 10):
        npy(root / f"imagenet256_features/{i}.npy", floats(1, 4, 4, 4))
        npy(root / f"imagenet256_labels/{i}.npy", np.array([7 + i]))


def sd_scripts(root: Path, kind: str = "sdxl") -> None:
    for i, height in enumerate((4, 6, 4)):
        more = {"latents_flipped": floats(4, height, 4), "alpha_mask": np.ones((height * 8, 32), np.float32)}
        sizes = {"original_size": np.array([32, height * 8]), "crop_ltrb": np.zeros(4, int)}
        name = f"{i}_0032x{height * 8:04}_{kind}.npz" if kind else f"{i}.npz"
        npz(root / name, latents=floats(4, height, 4), **sizes, **more)
        (root / f"{i}.txt").write_text("a cat")


def sd_scripts_suffixed(root: Path, kind: str) -> None:
    for i in range(2):
        arrays = {}
        for size in ("4x4", "6x4") if i else ("4x4",):
            height, width = map(int, size.split("x"))
            arrays |= {f"latents_{size}": floats(16, height, width), f"original_size_{size}": np.array([32, 32])}
            arrays |= {f"crop_ltrb_{size}": np.zeros(4, int), f"latents_flipped_{size}": floats(16, height, width)}
            arrays |= {f"alpha_mask_{size}": np.ones((height * 8, width * 8), np.float32)}
        npz(root / f"{i}_0032x0032_{kind}.npz", **arrays)


def sd_scripts_text(root: Path) -> None:
    """The text encoders' outputs, beside the latents."""
    sd_scripts_suffixed(root, "flux")
    more = {"t5_attn_mask": np.ones(9, np.int64), "apply_t5_attn_mask": np.array(False), "txt_ids": floats(9, 3)}
    for i in range(2):
        npz(root / f"{i}_flux_te.npz", l_pooled=floats(768), t5_out=floats(9, 40), **more)


def musubi(root: Path) -> None:
    for i in range(2):
        said = {"architecture": "wan", "width": "32", "height": "32", "format_version": "1.0.1", "frame_count": "5"}
        safetensors(
            root / f"{i}_00000-005_0032x0032_wan.safetensors", said,
            **{"latents_2x4x4_bfloat16": tensor(16, 2, 4, 4).bfloat16()},
            **{"latents_image_2x4x4_bfloat16": tensor(20, 2, 4, 4).bfloat16(), "clip_bfloat16": tensor(7, 5).half()},
        )  # fmt: skip
        text = {"varlen_t5_bfloat16": tensor(9, 64).bfloat16()}
        said = {"architecture": "wan", "caption1": "a cat", "format_version": "1.0.1"}
        safetensors(root / f"{i}_wan_te.safetensors", said, **text)


def musubi_flux2(root: Path) -> None:
    for i in range(2):
        said = {"architecture": "flux_2", "width": "64", "height": "64", "format_version": "1.0.1"}
        safetensors(root / f"{i}_0064x0064_f2.safetensors", said, **{"latents_4x4_float32": tensor(128, 4, 4)})


def ai_toolkit(root: Path) -> None:
    for i in range(2):
        said = {"filename": f"{i}.png", "latent_space_version": "flux1", "latent_version": "1", "format": "pt"}
        said |= {"flip_x": "false", "flip_y": "false", "crop_x": "0", "software": "{}"}
        safetensors(root / f"_latent_cache/{i}_ab-_1=.safetensors", said, latent=tensor(16, 4, 4).bfloat16())


def ai_toolkit_wan(root: Path) -> None:
    said = {"filename": "a.mp4", "latent_space_version": "wan21", "latent_version": "1", "num_frames": "5"}
    safetensors(
        root / "_latent_cache/a_b.safetensors", said, latent=tensor(16, 2, 4, 4).bfloat16(),
        first_frame_latent=tensor(16, 1, 4, 4).bfloat16(), audio_latent=tensor(8, 16, 4).bfloat16(),
        num_frames=torch.tensor([5], dtype=torch.int32),
    )  # fmt: skip


def cogvideo(root: Path) -> None:
    for i in range(2):
        video = {"encoded_video": tensor(16, 2, 4, 4).bfloat16()}
        safetensors(root / f"cache/video_latent/cogvideox-t2v/49x480x720/{i}.safetensors", **video)
        prompt = {"prompt_embedding": tensor(226, 64).bfloat16()}
        safetensors(root / f"cache/prompt_embeddings/{i}{'0' * 63}.safetensors", **prompt)


def stable_audio(root: Path) -> None:
    for i in range(3):
        npy(root / f"0/00000000000{i}.npy", floats(4, 16))
        (root / f"0/00000000000{i}.json").write_text('{"seconds_total": 1, "padding_mask": [1]}')
    (root / "details.json").write_text("{}")


def onetrainer(root: Path) -> None:
    for i in range(3):
        held = {"latent_image": tensor(4, 4, 4), "original_resolution": (32, 32), "crop_offset": (0, 0)}
        held |= {"latent_mask": torch.ones(1, 4, 4)}
        torch_file(root / f"image/{'a' * 64}/variation-0/{i}.pt", held)
        torch_file(root / f"text/{'a' * 64}/variation-0/{i}.pt", {"tokens": torch.arange(77), "hidden": tensor(77, 64)})
    said = [{"crop_resolution": (32, 32), "image_path": f"{i}.png"} for i in range(3)]
    torch_file(root / f"image/{'a' * 64}/variation-0/aggregate.pt", said)
    torch_file(root / f"text/{'a' * 64}/variation-0/aggregate.pt", [{"prompt": "a cat"}])


def simpletuner(root: Path, *shape: int) -> None:
    for i in range(2):
        torch_file(root / f"{i}.pt", tensor(*shape or (4, 4, 4)))


def comfyui(root: Path) -> None:
    for i in range(2):
        said = {"prompt": "{}", "workflow": "{}"}
        held = {"latent_tensor": tensor(1, 4, 4, 4), "latent_format_version_0": torch.tensor([])}
        safetensors(root / f"ComfyUI_0000{i}_.latent", said, **held)


def diffsynth(root: Path) -> None:
    for i in range(2):
        # What is called latents there is noise.
        shared = {"input_latents": tensor(1, 16, 2, 4, 4).bfloat16(), "latents": 9 * tensor(1, 16, 2, 4, 4).bfloat16()}
        shared |= {"height": 32, "width": 32, "prompt": "a cat"}
        torch_file(root / f"0/{i}.pth", (shared, {"context": tensor(1, 9, 64)}, {}))


def diffsynth_older(root: Path) -> None:
    for i in range(2):
        held = {"latents": tensor(16, 2, 4, 4).bfloat16(), "prompt_emb": {"context": tensor(1, 9, 64)}, "image_emb": {}}
        torch_file(root / f"{i}.mp4.tensors.pth", held)


def arrays(root: Path) -> None:
    for i in range(3):
        npy(root / f"{i}.npy", mean_std())


def one_image_arrays(root: Path, *shape: int) -> None:
    for i in range(3):
        npy(root / f"{i}.npy", floats(*shape))


@dataclass(frozen=True)
class Cache:
    """A cache as ``write`` leaves it in a folder, where commands take ``place``; ``told``: the preset must be said."""

    preset: str
    write: Callable[[Path], None]
    samples: int
    #: Of what convert writes, all that there are.
    layouts: tuple[str, ...] = ("bchw",)
    labels: tuple[int, ...] | None = None
    place: str = "."
    told: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--preset", self.preset) if self.told else ()


CACHES = {
    "EDM2": Cache("edm2", edm2, 5, labels=(9, 7, 5, 8, 6)),
    "EDM2 without labels": Cache("edm2", edm2_unlabelled, 2),
    "EDM2's zip": Cache("edm2-zip", edm2_zip, 3, labels=(0, 2, 4), place="edm2.zip"),
    "REPA": Cache("repa", repa, 5, labels=(9, 7, 5, 8, 6)),
    "REPA from within": Cache("repa", repa, 5, labels=(9, 7, 5, 8, 6), place="vae-sd"),
    "MAR": Cache("mar", mar, 6, ("bbchw",), labels=(0, 0, 1)),
    "U-ViT COCO": Cache("uvit-coco", uvit, 6),
    "mirrors": Cache("mirrors", mirrors, 12, ("bbchw",), labels=(0, 1, 2, 1, 2, 3)),
    "mirrors in .npy": Cache("mirrors", mirrors_npy, 6, ("bbchw",)),
    "LightningDiT": Cache("lightningdit", lightningdit, 8, labels=(0, 1, 2, 3, 1, 2, 3, 4)),
    "fast-DiT": Cache("fast-dit", fast_dit, 3, labels=(7, 17, 9)),
    "fast-DiT from within": Cache("fast-dit", fast_dit, 3, labels=(7, 17, 9), place="imagenet256_features"),
    "sd-scripts SD": Cache("sd-scripts", lambda root: sd_scripts(root, "sd"), 3),
    "sd-scripts SDXL": Cache("sd-scripts", sd_scripts, 3),
    "sd-scripts before": Cache("sd-scripts", lambda root: sd_scripts(root, ""), 3),
    "sd-scripts SD3": Cache("sd-scripts", lambda root: sd_scripts_suffixed(root, "sd3"), 3),
    "sd-scripts HunyuanImage": Cache("sd-scripts", lambda root: sd_scripts_suffixed(root, "hi"), 3),
    "sd-scripts FLUX": Cache("sd-scripts-flux", sd_scripts_text, 3),
    "sd-scripts Lumina": Cache("sd-scripts-flux", lambda root: sd_scripts_suffixed(root, "lumina"), 3),
    "sd-scripts Anima": Cache("sd-scripts-anima", lambda root: sd_scripts_suffixed(root, "anima"), 3),
    "musubi-tuner Wan": Cache("musubi-tuner", musubi, 2, ("bcthw",)),
    "musubi-tuner FLUX.2": Cache("musubi-tuner", musubi_flux2, 2),
    "ai-toolkit FLUX": Cache("ai-toolkit", ai_toolkit, 2),
    "ai-toolkit Wan": Cache("ai-toolkit", ai_toolkit_wan, 1, ("bcthw",)),
    "CogVideo": Cache("cogvideo", cogvideo, 2, ("bcthw",)),
    "stable-audio-tools": Cache("stable-audio", stable_audio, 3, ("bcl",)),
    "OneTrainer": Cache("onetrainer", onetrainer, 3),
    "SimpleTuner": Cache("simpletuner", simpletuner, 2, told=True),
    "SimpleTuner FLUX.2": Cache("simpletuner", lambda root: simpletuner(root, 128, 2, 2), 2, told=True),
    "SimpleTuner Wan": Cache("simpletuner", lambda root: simpletuner(root, 16, 2, 4, 4), 2, ("bcthw",), told=True),
    "ComfyUI": Cache("comfyui", comfyui, 2),
    "DiffSynth": Cache("diffsynth", diffsynth, 2, ("bcthw",)),
    "DiffSynth before": Cache("diffsynth-tensors", diffsynth_older, 2, ("bcthw",)),
    "arrays of std": Cache("array-std", arrays, 3, told=True),
    "arrays of log-variances": Cache("array-logvar", arrays, 3, told=True),
    "arrays of latents": Cache("array-latents", arrays, 3, told=True),
    "arrays of one image": Cache("array-one", lambda root: one_image_arrays(root, 1, 4, 4, 4), 3, told=True),
    "arrays of mirrors": Cache("array-mirrors", lambda root: one_image_arrays(root, 3, 2, 8, 4, 4), 18, ("bbchw",),
                               told=True),
}  # fmt: skip
