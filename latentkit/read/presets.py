"""Caches that known tools write: how each is recognised and read. One entry a tool; guide/caches.md has the sources."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from latentkit.errors import RequestError
from latentkit.read.header import FLOATS, Header, TensorInfo
from latentkit.text import near

# What is found out of so many tensors is kept.
_FEW = 64
_NUMBERED = r"\d+\.npy$"
_RESOLUTION = r"(_\d+x\d+)?"
#: Of arrays: where convert writes their labels.
LABELS_BESIDE = "labels-….npy beside"
_ARRAY = r"\.(npy|pt|pth)$"
_SIZES = re.compile(r"_(?:\d+x)?(\d+)x(\d+)(?:_|$)")


class Kind(NamedTuple):
    """A tensor without its place."""

    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Preset:
    """How a tool's cache is read, and what tells it from others.

    ``path`` and ``keys`` are patterns: of the end of a file's path, and of the whole key of each tensor to be read. A
    file fits where all is there that is named: a tensor of such a key whose axes ``layouts`` knows, every key that
    ``beside`` matches, the ``metadata`` entries, and a ``sibling``: a file whose name has this in its suffix's place.
    """

    name: str
    tool: str
    evidence: str
    layouts: Sequence[str]
    parameterization: str
    path: str = r"\.(safetensors|npz|pt|pth)$"
    keys: str = ".*"
    beside: Sequence[str] = ()
    metadata: Sequence[str] = ()
    sibling: str = ""
    #: The sizes that the first axes must have; None: any.
    axes: tuple[int | None, ...] = ()
    #: What was done to latents before they were saved.
    applied: str = "nothing"
    labels: str = "none"
    #: Whether others write such files too, so that it takes the user's word.
    doubtful: bool = False

    def layout_of(self, tensor: Kind | TensorInfo) -> str | None:
        """The layout of a tensor that it reads; None for any other."""
        layout = next((layout for layout in self.layouts if len(layout) == len(tensor.shape)), None)
        # Moments have an even number of channels.
        odd = self.parameterization != "none" and layout is not None and tensor.shape[layout.index("c")] % 2
        alike = all(size in (None, there) for size, there in zip(self.axes, tensor.shape, strict=False))
        is_one = tensor.dtype in FLOATS and 0 not in tensor.shape and alike and not odd
        return layout if is_one and re.fullmatch(self.keys, tensor.key) and _is_as_named(tensor) else None

    def fits_contents(self, tensors: Sequence[Kind], metadata: frozenset[str]) -> bool:
        """Whether a file of such tensors and entries may be one."""
        return (
            metadata.issuperset(self.metadata)
            and all(any(re.fullmatch(pattern, tensor.key) for tensor in tensors) for pattern in self.beside)
            and any(self.layout_of(tensor) for tensor in tensors)
        )

    def fits_path(self, path: str) -> bool:
        """Whether a file of this name and with these neighbours may be one."""
        # Every pattern has its suffixes in it as they are: most files need no more than this look.
        if path[path.rfind(".") + 1 :] not in self.path:
            return False
        # A folder's name is evidence from within it too.
        return re.search(self.path, os.path.abspath(path).replace(os.sep, "/")) is not None and (
            not self.sibling or os.path.exists(os.path.splitext(path)[0] + self.sibling)
        )

    def is_meant_for(self, header: Header) -> bool:
        """Whether a file goes by the names of what it reads, whatever is in it."""
        return any(re.fullmatch(self.keys, key) for key in header.tensors) and self.fits_path(header.path)

    @property
    def reading(self) -> tuple[str, Sequence[str], str]:
        """What two presets must have in common to give the same numbers."""
        return self.keys, tuple(self.layouts), self.parameterization


def _is_as_named(tensor: Kind | TensorInfo) -> bool:
    """Whether its last axes are those that its key names, if any: musubi-tuner has tokens of pixels by such keys."""
    named = _SIZES.search(tensor.key)
    return named is None or tensor.shape[-2:] == (int(named[1]), int(named[2]))


_IMAGE_OR_VIDEO = ("chw", "cthw")

PRESETS = (
    Preset("repa", "sihyun-yu/REPA, ImageNet", "img-mean-std-….npy in a folder vae-sd", ["chw"], "std",
           r"(^|/)vae-sd/(.*/)?img-mean-std-\d{8}\.npy$", labels="dataset.json"),
    Preset("edm2", "NVlabs/edm2", "img-mean-std-….npy", ["chw"], "std", r"img-mean-std-\d{8}\.npy$",
           labels="dataset.json"),
    Preset("edm2-zip", "NVlabs/edm2", "a zip of img-mean-std-….npy", ["chw"], "std", r"\.zip$",
           r"(.*/)?img-mean-std-\d{8}(\.npy)?", labels="dataset.json in the zip"),
    Preset("mar", "LTH14/mar", "an .npz of moments and moments_flip", ["chw"], "logvar", r"\.npz$",
           "moments(_flip)?", ["moments", "moments_flip"], labels="the folder's name"),
    Preset("uvit-coco", "baofff/U-ViT and REPA, MS-COCO", "numbered .npy beside their text features i_0.npy", ["chw"],
           "logvar", rf"(^|/){_NUMBERED}", sibling="_0.npy"),
    Preset("mirrors", "cached moments of each image and its mirror", "moments have a second axis of 2", ["bbchw"],
           "logvar", r"\.(safetensors|npz|pt|pth)$|moments[^/]*\.npy$",
           r"moments|parameters|latent_dist\.parameters|array", axes=(None, 2)),
    Preset("lightningdit", "hustvl/LightningDiT", "latents beside latents_flip", ["bchw"], "none", r"\.safetensors$",
           "latents", ["latents_flip"], labels="the tensor labels"),
    Preset("fast-dit", "chuanyangjin/fast-DiT", "numbered .npy of one image in a folder …_features", ["bchw"], "none",
           rf"(_|^|/)features/{_NUMBERED}", axes=(1,), applied="multiplied by 0.18215", labels="the folder …_labels"),
    Preset("sd-scripts", "kohya-ss/sd-scripts: SD, SDXL, SD3, HunyuanImage", "an .npz of latents and original_size",
           ["chw"], "none", r"(?<!_flux)(?<!_lumina)(?<!_anima)\.npz$", f"latents{_RESOLUTION}",
           [f"original_size{_RESOLUTION}", f"crop_ltrb{_RESOLUTION}"]),
    Preset("sd-scripts-flux", "kohya-ss/sd-scripts: FLUX, Lumina", "an .npz of latents, called …_flux or …_lumina",
           ["chw"], "none", r"_(flux|lumina)\.npz$", f"latents{_RESOLUTION}", applied="scale and shift"),
    Preset("sd-scripts-anima", "kohya-ss/sd-scripts: Anima", "an .npz of latents, called …_anima", ["chw"], "none",
           r"_anima\.npz$", f"latents{_RESOLUTION}", applied="mean and std of each channel"),
    Preset("musubi-tuner", "kohya-ss/musubi-tuner", "latents_FxHxW_DTYPE, and its architecture in the metadata",
           _IMAGE_OR_VIDEO, "none", r"\.safetensors$", r"latents_(\d+x)?\d+x\d+_[a-z0-9_]+",
           metadata=["architecture", "format_version"], applied="depends on the model"),
    Preset("ai-toolkit", "ostris/ai-toolkit", "latent, and latent_space_version in the metadata", _IMAGE_OR_VIDEO,
           "none", r"\.safetensors$", "latent", metadata=["latent_space_version"], applied="scale and shift"),
    Preset("cogvideo", "zai-org/CogVideo, finetune", "its key is encoded_video", ["cthw"], "none", r"\.safetensors$",
           "encoded_video", applied="the scaling factor"),
    Preset("stable-audio", "Stability-AI/stable-audio-tools", ".npy of two axes beside their .json", ["cl"], "none",
           r"\.npy$", sibling=".json"),
    Preset("onetrainer", "Nerogar/OneTrainer", "its key is latent_image", _IMAGE_OR_VIDEO, "none", r"\.pt$",
           "latent_image"),
    Preset("simpletuner", "bghira/SimpleTuner", "a .pt of one bare tensor", _IMAGE_OR_VIDEO, "none", r"\.pt$", "tensor",
           applied="scale and shift, by most models", doubtful=True),
    Preset("diffsynth", "modelscope/DiffSynth-Studio", "a .pth of dicts, the first with input_latents",
           ["bchw", "bcthw"], "none", r"\.pth$", r"0\.input_latents", axes=(1,),
           applied="mean and std of each channel"),
    Preset("diffsynth-tensors", "modelscope/DiffSynth-Studio until June 2025", "latents in a ….tensors.pth", ["cthw"],
           "none", r"\.tensors\.pth$", "latents", applied="not known"),
    Preset("comfyui", "ComfyUI, Save Latent", "its key is latent_tensor", ["bchw", "bcthw"], "none",
           r"\.(latent|safetensors)$", "latent_tensor"),
    Preset("array-std", "any tool, as EDM2 and REPA write", "an .npy or .pt of three axes", ["chw"], "std", _ARRAY,
           "array|tensor", labels=LABELS_BESIDE, doubtful=True),
    Preset("array-logvar", "any tool, as U-ViT and REPA's COCO write", "an .npy or .pt of three axes", ["chw"],
           "logvar", _ARRAY, "array|tensor", labels=LABELS_BESIDE, doubtful=True),
    Preset("array-one", "any tool, as fast-DiT writes", "a numbered .npy of one image", ["bchw"], "none",
           rf"(^|/){_NUMBERED}", "array", axes=(1,), doubtful=True),
    Preset("array-mirrors", "any tool, of each image and its mirror", "an .npy of five axes, the second of 2",
           ["bbchw"], "logvar", r"\.npy$", "array", axes=(None, 2), labels=LABELS_BESIDE, doubtful=True),
    Preset("array-latents", "any tool that saves what it drew", "an .npy or .pt of three axes", ["chw"], "none", _ARRAY,
           "array|tensor", labels=LABELS_BESIDE, doubtful=True),
)  # fmt: skip


def preset_called(name: str) -> Preset:
    """Raises ``RequestError`` where there is none of this name."""
    for preset in PRESETS:
        if preset.name == name:
            return preset
    names = [preset.name for preset in PRESETS]
    raise RequestError(f"--preset {name}: there is none{near(name, names)}; choose from {', '.join(names)}")


def fitting(header: Header) -> list[Preset]:
    """The presets that a file fits: those beyond doubt, or else the others."""
    tensors = tuple(Kind(tensor.key, tensor.dtype, tensor.shape) for tensor in header.tensors.values())
    metadata = frozenset(header.metadata)
    if len(tensors) <= _FEW:
        fits = [preset for preset in _by_contents(tensors, metadata) if preset.fits_path(header.path)]
    else:
        # The other way round: a look at the name is one, at the contents as many.
        by_path = (preset for preset in PRESETS if preset.fits_path(header.path))
        fits = [preset for preset in by_path if preset.fits_contents(tensors, metadata)]
    return [preset for preset in fits if not preset.doubtful] or fits


# A folder of a million files has few kinds.
@lru_cache(maxsize=1024)
def _by_contents(tensors: Sequence[Kind], metadata: frozenset[str]) -> list[Preset]:
    return [preset for preset in PRESETS if preset.fits_contents(tensors, metadata)]


def recognised(header: Header, parameterization: str | None, layout: str | None) -> Preset | None:
    """The preset that a file is to be read by, or None; it has the ``parameterization`` and ``layout`` that are given.

    Raises ``RequestError`` where several fit that would give different numbers.
    """
    fits = fitting(header)
    if not fits:
        return None
    fits = [
        preset
        for preset in fits
        if parameterization in (None, preset.parameterization) and (layout is None or layout in preset.layouts)
    ]
    if len({preset.reading for preset in fits}) > 1 or (parameterization is None and any(p.doubtful for p in fits)):
        ways = " or ".join(f"--preset {preset.name} ({preset.parameterization})" for preset in fits)
        ways += ", or what its second half is with --parameterization" if len(fits) == 1 else ""
        raise RequestError(
            f"{header.path}: {fits[0].evidence}, which may be read in more than one way, with other numbers: say {ways}"
        )
    return fits[0] if fits else None
