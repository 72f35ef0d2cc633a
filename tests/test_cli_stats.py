"""``latentkit stats`` at the command line; the statistics themselves are tested in test_statistics.py."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SAMPLE_DATA, Cli, moments_of
from safetensors.torch import load_file

Write = Callable[..., Path]


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_json_is_strict_even_where_figures_are_undefined(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=torch.full((1, 4, 1, 1), float("nan")))
    document = strict(cli("stats", "a.safetensors").out)
    assert document["overall"]["mean"]["mean"] is None
    assert document["overall"]["mean"]["nan_count"] == 2


def test_the_document_says_what_was_read(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    document = strict(cli("stats", "a.safetensors").out)
    assert document["measure"] == "stats"
    assert document["read"] == ["moments: 4 channels = 2 mean + 2 logvar, bchw"]
    assert (document["samples"], document["channels"]) == (5, 2)
    assert [channel["channel"] for channel in document["per_channel"]] == [0, 1]


def test_the_clamp_of_the_synthetic_file_is_counted_as_its_readme_says(cli: Cli) -> None:
    overall = strict(cli("stats", SAMPLE_DATA / "synthetic-clamp.safetensors").out)["overall"]
    # 16 of each, and an infinity beyond either bound.
    assert {key: overall["clamp"][key] for key in ("below", "at_low", "at_high", "above")} == {
        "below": 17, "at_low": 16, "at_high": 16, "above": 17,
    }  # fmt: skip
    assert [overall["logvar"][key] for key in ("nan_count", "plus_inf_count", "minus_inf_count")] == [1, 1, 1]
    assert [overall["mean"][key] for key in ("nan_count", "plus_inf_count", "minus_inf_count")] == [1, 1, 1]


def test_the_clamp_can_be_moved(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=torch.cat([torch.zeros(3, 1), torch.tensor([[-5.0], [0], [5]])], 1))
    clamp = strict(cli("stats", "a.safetensors", "--clamp-min", -5, "--clamp-max", 4).out)["overall"]["clamp"]
    assert (clamp["low"], clamp["high"], clamp["below"], clamp["at_low"], clamp["above"]) == (-5, 4, 0, 1, 1)


def test_kl_agrees_with_that_of_the_samples(cli: Cli) -> None:
    path = SAMPLE_DATA / "healthy-f16.safetensors"
    document = strict(cli("stats", path).out)
    assert document["overall"]["kl"]["total"] == pytest.approx(sum(cli("kl", path).values("kl")), rel=1e-6)


READINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("healthy-f32", "healthy-f16", "healthy-bf16", "collapsed", "deterministic", "video", "shards"), ()
    ),
    "synthetic-clamp": (),
    "pair": (),
    "mean-std": ("--parameterization", "std"),
    "tokens": ("--layout", "blc"),
    "per-image": ("--layout", "chw"),
    "latents": ("--parameterization", "none"),
}


def plain(name: str) -> tuple[Any, Any]:
    """Means and log-variances of a sample file (or folder) in float64, ``(channels, elements)``."""
    path = SAMPLE_DATA / name
    paths = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path.with_suffix(".safetensors")]
    axis = {"tokens": 2, "per-image": 0}.get(name, 1)
    halves: tuple[list[Any], list[Any]] = ([], [])
    for tensors in map(load_file, paths):
        if name == "pair":
            parts = tensors["mean"], tensors["logvar"]
        elif name == "latents":
            parts = tensors["latents"], tensors["latents"]
        else:
            parts = tensors["moments"].chunk(2, dim=axis)
        for half, part in zip(halves, parts, strict=True):
            half.append(np.moveaxis(part.double().numpy(), axis, 0).reshape(part.shape[axis], -1))
    mean, scale = (np.concatenate(half, axis=1) for half in halves)
    return mean, None if name == "latents" else 2 * np.log(scale) if name == "mean-std" else scale


@pytest.mark.parametrize("name", READINGS)
def test_every_figure_of_the_sample_data_is_that_of_numpy(cli: Cli, name: str) -> None:
    path = SAMPLE_DATA / name if (SAMPLE_DATA / name).is_dir() else SAMPLE_DATA / f"{name}.safetensors"
    document = strict(cli("stats", path, *READINGS[name]).out)
    mean, logvar = plain(name)
    groups = [(document["overall"], slice(None)), *((each, each["channel"]) for each in document["per_channel"])]
    for group, rows in groups:
        m = mean[rows].ravel()
        finite = m[np.isfinite(m)]
        variance = finite.var()
        check_spread(group["mean"], finite, document)
        if logvar is not None:
            raw = logvar[rows].ravel()
            check_spread(group["logvar"], raw[np.isfinite(raw)], document)
            used = np.clip(raw[~np.isnan(raw)], -30, 20)
            variance += np.exp(used).mean()
            total = 0.5 * (finite**2).sum() + 0.5 * (np.exp(used) - 1 - used).sum()
            assert group["kl"]["total"] == pytest.approx(total, rel=1e-9)
            assert group["clamp"]["below"] + group["clamp"]["above"] == ((raw < -30) | (raw > 20)).sum()
        assert group["drawn"]["sd"] == pytest.approx(np.sqrt(variance), rel=1e-9)


def check_spread(spread: Any, values: Any, document: Any) -> None:
    sd = values.std()
    assert (spread["finite"], spread["min"], spread["max"]) == (len(values), values.min(), values.max())
    assert spread["mean"] == pytest.approx(values.mean(), abs=1e-12 * sd)
    assert spread["sd"] == pytest.approx(sd, rel=1e-12)
    expected = np.quantile(values, document["quantile_levels"], method="inverted_cdf")
    if document["exact_quantiles"]:
        assert spread["quantiles"] == pytest.approx(expected, rel=1e-15)
    else:
        # Of σ, 0.8 % are 0.016 nats.
        slack = 0.016 if document["parameterization"] == "std" else 2**-16
        found = np.array(spread["quantiles"])
        assert (np.abs(found - expected) <= np.maximum(2**-7 * np.abs(expected), slack)).all()


def test_the_collapsed_channels_are_found(cli: Cli) -> None:
    document = strict(cli("stats", SAMPLE_DATA / "collapsed.safetensors").out)
    assert [channel["collapsed"] for channel in document["per_channel"]] == [True, False, True, True]


def test_bits_are_equal_for_any_order_and_batch_size(cli: Cli, write: Write) -> None:
    for name in "ab":
        write(f"{name}.safetensors", moments=moments_of(9, seed=ord(name)))
    counted = ("nan_count", "min", "max", "quantiles")
    figures = []
    for names in ("ab", "ba"):
        for size in (1, 7, 64):
            outcome = cli("stats", *(f"{name}.safetensors" for name in names), "--batch-size", size)
            figures.append([strict(outcome.out)["overall"]["logvar"][key] for key in counted])
    assert all(figure == figures[0] for figure in figures)


def test_tensors_of_different_shapes_are_pooled_by_channel(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(3, 2, 4, 4))
    write("b.safetensors", moments=moments_of(2, 2, 8, 2))
    document = strict(cli("stats", "a.safetensors", "b.safetensors").out)
    assert (document["samples"], document["overall"]["count"]) == (5, 2 * (3 * 16 + 2 * 16))


@pytest.mark.parametrize("options", [("--layout", "blc"), ("--layout", "bcl")])
def test_layouts_decide_the_channels(cli: Cli, write: Write, options: tuple[str, ...]) -> None:
    write("a.safetensors", moments=torch.zeros(2, 6, 4))
    assert strict(cli("stats", "a.safetensors", *options).out)["channels"] == {"blc": 2, "bcl": 3}[options[1]]


def test_a_file_holds_what_standard_output_holds(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    outcome = cli("stats", "a.safetensors", "-o", "s.json")
    assert (outcome.status, outcome.out) == (0, "")
    assert (tmp_path / "s.json").read_text() == cli("stats", "a.safetensors").out


@pytest.mark.parametrize("count", [9, 100_020], ids=["exact", "in cells"])
def test_kl_and_stats_have_one_mean_over_the_samples_where_it_is_finite(cli: Cli, write: Write, count: int) -> None:
    moments = moments_of(count, 1, 1, 1)
    moments[3, 0, 0, 0] = torch.nan
    moments[4, 0] = torch.inf
    write("a.safetensors", moments=moments)
    finite = [value for value in cli("kl", "a.safetensors").values("kl") if math.isfinite(value)]
    assert len(finite) == count - 2
    assert cli("stats", "a.safetensors", "--state", "a.state").json["overall"]["kl"]["sample"] == pytest.approx(
        math.fsum(finite) / len(finite), rel=1e-12
    )
    merged = cli("stats", "--merge", "a.state").json["overall"]["kl"]["sample"]
    assert merged == pytest.approx(math.fsum(finite) / len(finite), rel=1e-12)


def test_nonfinite_values_are_a_note(cli: Cli) -> None:
    err = cli("stats", SAMPLE_DATA / "synthetic-clamp.safetensors").err
    assert "4 values are NaN, or infinite means" in err


@pytest.mark.parametrize("name", ["healthy-f16", "synthetic-clamp", "collapsed", "video"])
def test_tables_fit_80_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = cli("stats", SAMPLE_DATA / f"{name}.safetensors", "--format", "table").out
    assert max(map(len, out.splitlines())) <= 80
    for word in ("log-variance", "KL per element", "Clamp", "sd"):
        assert word in out


def test_one_sample_has_no_active_channels_yet(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(1, 2, 1, 1))
    outcome = cli("stats", "a.safetensors", "--format", "table")
    assert outcome.status == 0
    assert "–" in outcome.out


def test_a_negative_standard_deviation_is_refused_with_its_place(cli: Cli, write: Write) -> None:
    moments = moments_of(5).abs()
    moments[3, 2:] = -1.0
    write("a.safetensors", moments=moments)
    outcome = cli("stats", "a.safetensors", "--parameterization", "std", "--quiet")
    assert (outcome.status, "in a.safetensors, tensor 'moments', sample 3" in outcome.complaint) == (1, True)
