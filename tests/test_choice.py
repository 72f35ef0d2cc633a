"""Which tensors are moments: the known keys, the only float, a pair; never a guess between two."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from latentkit.errors import DataError, LatentkitError, RequestError
from latentkit.read.choice import Posterior, Selection, choose
from latentkit.read.header import Header, TensorInfo
from latentkit.read.inputs import InputFile
from latentkit.read.presets import PRESETS

FILE = InputFile("a.safetensors", "a.safetensors", ".", searched=False)


def header_of(metadata: dict[str, str] | None = None, **tensors: tuple[str, tuple[int, ...]]) -> Header:
    infos = {key: TensorInfo(key, dtype, shape, 0, 0) for key, (dtype, shape) in tensors.items()}
    return Header("a.safetensors", (0, 0), "", infos, metadata or {})


M = ("F32", (2, 4, 3, 3))
HALF = ("F32", (2, 2, 3, 3))
LABELS = ("I64", (2,))


def chosen(header: Header, **selection: Any) -> list[tuple[str, str | None, str]]:
    """Key, key of the scale, and parameterization of each posterior."""
    posteriors = choose(FILE, header, Selection(**selection))
    return [(one.key, one.scale.key if one.scale else None, one.parameterization) for one in posteriors]


def complaint(header: Header, kind: type[LatentkitError] = RequestError, **selection: Any) -> str:
    with pytest.raises(kind) as error:
        choose(FILE, header, Selection(**selection))
    return str(error.value)


# ---- without a key ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["moments", "parameters", "latent_dist.parameters"])
def test_a_known_key_is_taken_before_any_other_tensor(key: str) -> None:
    header = header_of(x=M, mean=HALF, logvar=HALF, labels=LABELS, **{key: M})
    assert chosen(header) == [(key, None, "logvar")]


def test_the_only_float_is_taken_whatever_its_name() -> None:
    assert chosen(header_of(whatever=M, labels=LABELS)) == [("whatever", None, "logvar")]


@pytest.mark.parametrize("key", ["mean", "mu", "logvar", "log_var", "std", "variance"])
def test_half_of_a_pair_alone_is_not_halved_again(key: str) -> None:
    assert f"{key!r} is half of a pair by its name" in complaint(header_of(**{key: M}, labels=LABELS))
    assert chosen(header_of(**{key: M}), keys=(key,)) == [(key, None, "logvar")]


def test_an_array_without_a_name_has_that_of_its_file() -> None:
    header = replace(header_of(array=M), path="d/mean-00001-of-00002.npy")
    assert "'mean-00001-of-00002' is half of a pair" in complaint(header)
    assert chosen(replace(header, path="d/meanings.npy")) == [("array", None, "logvar")]


@pytest.mark.parametrize(
    ("mean", "scale", "parameterization"),
    [("mean", "logvar", "logvar"), ("mu", "logvar", "logvar"), ("mean", "std", "std")],
)
def test_a_pair_is_known_by_its_keys(mean: str, scale: str, parameterization: str) -> None:
    header = header_of(**{mean: HALF, scale: HALF, "scores": ("F32", (2,))})
    assert chosen(header) == [(mean, scale, parameterization)]


def test_the_parameterization_said_overrules_that_of_a_pair() -> None:
    assert chosen(header_of(mean=HALF, std=HALF), parameterization="var") == [("mean", "std", "var")]


@pytest.mark.parametrize(
    "tensors",
    [
        {"x": M, "y": M},
        {"moments": M, "parameters": M},
        {"mean": HALF, "logvar": HALF, "std": HALF},
        {"mean": HALF, "mu": HALF, "logvar": HALF},
        {"moments_a": M, "moments_b": M},
    ],
)
def test_between_two_readings_every_tensor_is_listed_and_a_flag_named(
    tensors: dict[str, tuple[str, tuple[int, ...]]],
) -> None:
    text = complaint(header_of(**tensors, labels=LABELS))
    for key, (dtype, shape) in {**tensors, "labels": LABELS}.items():
        assert f"{key!r} {dtype} {list(shape)}" in text
    assert "--key " in text


def test_the_key_proposed_is_none_of_drawn_latents() -> None:
    assert "--key x " in complaint(header_of(latents=M, x=M))


def test_a_list_of_many_tensors_is_cut() -> None:
    text = complaint(header_of(**{f"t{number:02}": M for number in range(30)}))
    assert "'t19'" in text
    assert "'t20'" not in text
    assert "and 10 more" in text


# ---- with a key ---------------------------------------------------------------------------------------------------


def test_keys_are_exact_names_first_then_globs() -> None:
    header = header_of(**{"a*": M, "ab": M, "ac": M})
    assert [key for key, *_ in chosen(header, keys=("a*",))] == ["a*"]
    assert [key for key, *_ in chosen(header, keys=("a[bc]",))] == ["ab", "ac"]


def test_a_tensor_named_twice_is_read_once() -> None:
    header = header_of(moments=M, moments_flip=M)
    assert [key for key, *_ in chosen(header, keys=("moments_flip", "m*"))] == ["moments_flip", "moments"]


def test_mean_and_scale_can_be_named() -> None:
    header = header_of(a=HALF, b=HALF, moments=M)
    assert chosen(header, mean_key="a", scale_key="b") == [("a", "b", "logvar")]


# ---- drawn latents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "latents",
        "latent",
        "latents_flip",
        "latents.moments_a",
        "latent_values",
        "model_latents",
        "encoded_video",
        "x.latents",
        "latents2",
    ],
)
def test_a_tensor_named_as_latents_is_refused_unless_the_parameterization_is_said(key: str) -> None:
    header = header_of(**{key: M})
    assert f"tensor {key!r} holds drawn latents" in complaint(header)
    assert "--parameterization" in complaint(header, keys=(key,))
    assert chosen(header, parameterization="logvar") == [(key, None, "logvar")]


@pytest.mark.parametrize("key", ["moments", "relations", "latency", "latitude", "encoded_videos", "patent_s"])
def test_other_names_are_not_taken_for_latents(key: str) -> None:
    assert chosen(header_of(**{key: M})) == [(key, None, "logvar")]


def test_what_latentkit_drew_is_refused_whatever_its_key() -> None:
    assert "latentkit drew it" in complaint(header_of({"noise_recipe": "1"}, **{"latents.x": M}))
    # What was carried beside them is not: but whatever said how it is read was left behind.
    carried = header_of({"noise_recipe": "1"}, latents=M, moments=M)
    text = complaint(carried)
    assert "drawn latents" not in text and "say which with --parameterization" in text
    assert chosen(carried, parameterization="std") == [("moments", None, "std")]


# ---- layouts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout", "view"),
    [
        ((5, 8), None, (5, 1, 4, 1)),
        ((5, 8, 2, 3), None, (5, 1, 4, 6)),
        ((5, 8, 2, 3, 4), None, (5, 1, 4, 24)),
        ((5, 6, 8), "blc", (5, 6, 4, 1)),
        ((5, 8, 6), "bcl", (5, 1, 4, 6)),
        ((8, 2, 3), "chw", (1, 1, 4, 6)),
        ((5, 2, 8, 3, 4), "bbchw", (10, 1, 4, 12)),
        ((5, 2, 3, 4, 8), "bthwc", (5, 24, 4, 1)),
        ((8,), "c", (1, 1, 4, 1)),
        ((5, 2, 8, 3, 4), "btchw", (5, 2, 4, 12)),
    ],
)
def test_axes_are_read_by_rank_or_layout(shape: tuple[int, ...], layout: str | None, view: tuple[int, ...]) -> None:
    (posterior,) = choose(FILE, header_of(moments=("F32", shape)), Selection(layout=layout))
    assert posterior.axes.view == view


def test_rank_3_needs_a_layout() -> None:
    assert all(flag in complaint(header_of(moments=("F32", (2, 4, 4)))) for flag in ("--layout bcl", "blc", "chw"))


@pytest.mark.parametrize("shape", [(), (8,), (1, 2, 1, 1, 1, 1)])
def test_other_ranks_need_a_layout_too(shape: tuple[int, ...]) -> None:
    assert "--layout" in complaint(header_of(moments=("F32", shape)), DataError)


@pytest.mark.parametrize(
    ("posterior", "reading"),
    [
        ({"moments": M}, "moments: 4 channels = 2 mean + 2 logvar, bchw"),
        ({"mean": HALF, "std": HALF}, "mean + std: 2 channels, std, bchw"),
    ],
)
def test_the_reading_says_how_halves_and_axes_were_taken(posterior: dict[str, Any], reading: str) -> None:
    (one,) = choose(FILE, header_of(**posterior), Selection())
    assert isinstance(one, Posterior)
    assert one.reading == reading


def test_samples_are_counted_through_two_batch_axes() -> None:
    (posterior,) = choose(FILE, header_of(moments=("F32", (5, 2, 8, 3, 4))), Selection(layout="bbchw"))
    assert posterior.samples == 10


# ---- what the file itself says, and presets ------------------------------------------------------------------------


def told(path: str = "a.safetensors", selection: Selection | None = None, **tensors: Any) -> list[Posterior]:
    metadata = tensors.pop("metadata", {})
    header = replace(header_of(**tensors), path=path, metadata=metadata)
    return choose(InputFile(path, path, ".", searched=False), header, selection or Selection())


@pytest.mark.parametrize("kind", ["logvar", "std", "var", "softplus"])
def test_metadata_says_the_parameterization_and_a_flag_goes_before_it(kind: str) -> None:
    metadata = {"parameterization": kind}
    (posterior,) = told(moments=("F32", (2, 8, 4, 4)), metadata=metadata)
    assert posterior.parameterization == kind
    assert posterior.reading.endswith("" if kind == "logvar" else ", by its metadata")
    (posterior,) = told(
        moments=("F32", (2, 8, 4, 4)), metadata=metadata, selection=Selection(parameterization="logvar")
    )
    assert posterior.parameterization == "logvar"
    assert len(posterior.remarks) == (kind != "logvar")
    assert all(f"goes before its metadata, which says {kind}" in remark for remark in posterior.remarks)


def test_metadata_says_the_layout() -> None:
    (posterior,) = told(moments=("F32", (5, 16, 8)), metadata={"layout": "blc"})
    assert (posterior.layout, posterior.axes.view, posterior.source) == ("blc", (5, 16, 4, 1), "by its metadata")


@pytest.mark.parametrize(
    "metadata", [{"layout": "NCHW"}, {"layout": "bcthw"}, {"parameterization": "gaussian"}, {"layout": "x" * 900}]
)
def test_words_of_another_program_are_passed_over_with_a_note(metadata: dict[str, str]) -> None:
    (posterior,) = told(moments=("F32", (2, 8, 4, 4)), metadata=metadata)
    assert (posterior.layout, posterior.parameterization, posterior.source) == ("bchw", "logvar", "")
    (remark,) = posterior.remarks
    assert "means nothing here: passed over" in remark
    assert len(remark) < 150


@pytest.mark.parametrize(("latents", "works"), [(True, True), (False, False)])
def test_latents_by_metadata_are_read_where_a_command_takes_latents(latents: bool, works: bool) -> None:
    selection, metadata = Selection(latents=latents), {"parameterization": "none"}
    with nullcontext() if works else pytest.raises(RequestError, match="holds drawn latents"):
        (posterior,) = told(z=("F32", (2, 4, 4, 4)), metadata=metadata, selection=selection)
        assert posterior.parameterization == "none"


@pytest.mark.parametrize(
    ("scale", "kind"), [("std", "std"), ("enc.sigma", "std"), ("z_var", "var"), ("logvar", "logvar"), ("b", "logvar")]
)
def test_a_pair_named_by_hand_means_what_its_names_mean(scale: str, kind: str) -> None:
    pair = ("F32", (2, 4, 4, 4))
    (posterior,) = told(**{"mean": pair, scale: pair}, selection=Selection(mean_key="mean", scale_key=scale))
    assert posterior.parameterization == kind


def test_markers_and_vectors_are_no_candidates() -> None:
    (posterior,) = told(x=("F32", (2, 8, 4, 4)), version=("F32", (0,)), steps=("F32", (7,)))
    assert posterior.key == "x"


CHW, CTHW = (8, 4, 4), (8, 3, 4, 4)
#: A file as each tool writes it, and what it is read as: keys, layout, parameterization.
CACHES: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, str], list[str], str, str]] = {
    "edm2": ("d/00000/img-mean-std-00000007.npy", {"array": CHW}, {}, ["array"], "chw", "std"),
    "edm2-zip": ("e.zip", {"00000/img-mean-std-00000000": CHW, "x": (1,)}, {}, ["00000/img-mean-std-00000000"], "chw",
                 "std"),
    "repa": ("vae-sd/00000/img-mean-std-00000007.npy", {"array": CHW}, {}, ["array"], "chw", "std"),
    "mar": ("n01/x.JPEG.npz", {"moments": CHW, "moments_flip": CHW}, {}, ["moments", "moments_flip"], "chw", "logvar"),
    "mirrors": ("m.safetensors", {"moments": (5, 2, 8, 4, 4)}, {}, ["moments"], "bbchw", "logvar"),
    "lightningdit": ("s.safetensors", {"latents": (9, 32, 4, 4), "latents_flip": (9, 32, 4, 4), "labels": (9,)},
                     {"dtype": "torch.float32"}, ["latents"], "bchw", "none"),
    "fast-dit": ("imagenet256_features/17.npy", {"array": (1, 4, 8, 8)}, {}, ["array"], "bchw", "none"),
    "sd-scripts": ("a_0512x0512_sdxl.npz", {"latents": (4, 8, 8), "original_size": (2,), "crop_ltrb": (4,)}, {},
                   ["latents"], "chw", "none"),
    "sd-scripts sd3": ("a_0512x0512_sd3.npz",
                       {"latents_8x8": (16, 8, 8), "original_size_8x8": (2,), "crop_ltrb_8x8": (4,)}, {},
                       ["latents_8x8"], "chw", "none"),
    "sd-scripts-flux": ("a_flux.npz", {"latents_8x8": (16, 8, 8), "latents_flipped_8x8": (16, 8, 8)}, {},
                        ["latents_8x8"], "chw", "none"),
    "sd-scripts-anima": ("a_anima.npz", {"latents_8x8": (16, 8, 8)}, {}, ["latents_8x8"], "chw", "none"),
    "musubi-tuner": ("a_0512x0512_wan.safetensors", {"latents_3x4x4_bfloat16": CTHW, "clip_bfloat16": (7, 5)},
                     {"architecture": "wan", "format_version": "1.0.1"}, ["latents_3x4x4_bfloat16"], "cthw", "none"),
    "ai-toolkit": ("_latent_cache/a_x.safetensors", {"latent": (16, 4, 4)}, {"latent_space_version": "flux1"},
                   ["latent"], "chw", "none"),
    "cogvideo": ("v.safetensors", {"encoded_video": CTHW, "prompt_embedding": (3, 5)}, {}, ["encoded_video"], "cthw",
                 "none"),
    "onetrainer": ("0.pt", {"latent_image": CHW, "crop_offset": (2,)}, {}, ["latent_image"], "chw", "none"),
    "comfyui": ("x.latent", {"latent_tensor": (1, 4, 8, 8), "latent_format_version_0": (0,)}, {}, ["latent_tensor"],
                "bchw", "none"),
}  # fmt: skip


@pytest.mark.parametrize("name", CACHES)
def test_caches_of_known_tools_are_recognised(name: str) -> None:
    path, tensors, metadata, keys, layout, kind = CACHES[name]
    shapes = {key: ("F32", shape) for key, shape in tensors.items()}
    found = told(path, Selection(latents=True), metadata=metadata, **shapes)
    assert [posterior.key for posterior in found] == keys
    assert {posterior.layout for posterior in found} == {layout}
    assert {posterior.parameterization for posterior in found} == {kind}
    assert all(f", by preset {name.split()[0]}: " in posterior.reading for posterior in found)
    if kind == "none":
        with pytest.raises(RequestError, match="holds drawn latents"):
            told(path, metadata=metadata, **shapes)


def test_every_preset_is_named_once() -> None:
    assert len({preset.name for preset in PRESETS}) == len(PRESETS)


@pytest.mark.parametrize(("path", "names"), [("7.npy", ["array-std", "array-logvar", "array-latents"])])
def test_where_readings_differ_the_flag_is_asked_for(path: str, names: list[str]) -> None:
    with pytest.raises(
        RequestError, match=" or ".join(f"--preset {name} " for name in names).replace(" or ", ".* or ")
    ):
        told(path, array=("F32", CHW))
    for name in names[:2]:
        (posterior,) = told(path, Selection(preset=name), array=("F32", CHW))
        assert (posterior.layout, posterior.parameterization) == ("chw", name.removeprefix("array-"))
    (posterior,) = told(path, Selection(parameterization="std"), array=("F32", CHW))
    assert (posterior.layout, posterior.parameterization) == ("chw", "std")


def test_a_wrong_preset_is_an_error() -> None:
    with pytest.raises(RequestError, match="not what --preset mar reads"):
        told(selection=Selection(preset="mar"), x=("F32", (2, 8, 4, 4)))
    with pytest.raises(RequestError, match="--preset nonsense: there is none; choose from repa"):
        told(selection=Selection(preset="nonsense"), x=("F32", (2, 8, 4, 4)))
