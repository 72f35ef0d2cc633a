"""Which tensors are moments: the known keys, the only float, a pair; never a guess between two."""

from typing import Any

import pytest

from latentkit.errors import DataError, LatentkitError, RequestError
from latentkit.read.choice import Posterior, Selection, choose
from latentkit.read.header import Header, TensorInfo
from latentkit.read.inputs import InputFile

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
    assert f"tensor {key!r} holds latents already drawn" in complaint(header)
    assert "--parameterization" in complaint(header, keys=(key,))
    assert chosen(header, parameterization="logvar") == [(key, None, "logvar")]


@pytest.mark.parametrize("key", ["moments", "relations", "latency", "latitude", "encoded_videos", "patent_s"])
def test_other_names_are_not_taken_for_latents(key: str) -> None:
    assert chosen(header_of(**{key: M})) == [(key, None, "logvar")]


def test_what_latentkit_drew_is_refused_whatever_its_key() -> None:
    text = complaint(header_of({"noise_recipe": "1"}, moments=M))
    assert "latentkit drew it" in text


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
