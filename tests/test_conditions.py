"""Conditions: what they read, how they are refused, and when they hold."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import latentkit
from latentkit.errors import RequestError
from latentkit.health.conditions import LEVELS, Condition, held
from latentkit.health.figures import FIGURES, Judged, value_of
from latentkit.health.figures import condition as parse
from tests.conftest import moments_of


def judged(moments: torch.Tensor) -> Judged:
    return latentkit.stats(moments).result


def holds(text: str, judged: Judged) -> bool:
    return bool(held([parse(text)], lambda name: value_of(name, judged)))


def test_a_condition_is_read_whatever_its_spaces() -> None:
    expected = Condition("kl_mean", ">=", 100.0)
    assert parse("kl_mean >= 1e2") == parse("kl_mean>=100") == parse("  kl_mean  >=100.0 ") == expected
    assert str(expected) == "kl_mean >= 100"
    assert parse("logvar_min == -inf").number == -float("inf")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kl_mean",
        "kl_mean >",
        "> 3",
        "kl_mean = 3",
        "kl_mean > nan",
        "kl_mean > x",
        "3 < kl_mean",
        "kl_mean > 3 or nan_count > 0",
        "kl_mean > 3; import os",
        "__import__('os').system('true') > 0",
        "kl_mean > samples",
    ],
)
def test_what_is_no_condition_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(RequestError, match=r"NAME OP NUMBER.*'clamped_fraction > 0.001'"):
        parse(text)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("clamp_fraction", "clamped_fraction"),
        ("kl_min", "channel.kl_min"),
        ("nan", "nan_count"),
        ("KL_mean", "kl_mean"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(RequestError, match=f"no figure is called '{name}'; did you mean .*{near}"):
        parse(f"{name} > 0")


def test_a_figure_that_is_undefined_has_no_change() -> None:
    fine, broken = moments_of(4), moments_of(4)
    broken[0, -1, 0, 0] = torch.nan
    for ours, theirs in ((broken, fine), (fine, broken)):
        assert np.isnan(value_of("clamped_fraction.change", judged(ours), judged(theirs)))


def test_a_name_like_none_is_answered_with_all() -> None:
    with pytest.raises(RequestError, match="there are samples, channels, findings"):
        parse("zzzzzz > 0")


def test_figures_are_those_of_the_summary() -> None:
    moments = moments_of(50, 3)
    ours = judged(moments)
    summary = ours.summary
    overall = summary.overall
    assert overall.kl is not None and overall.logvar is not None
    values = {name: figure.value(ours) for name, figure in FIGURES.items() if figure.extra is None}
    expected = {
        "samples": 50,
        "channels": 3,
        "nan_count": 0,
        "kl_mean": overall.kl.sample,
        "kl_element": overall.kl.element,
        "kl_total": overall.kl.total,
        "channel.kl_max": max(group.kl.element for group in summary.per_channel if group.kl),
        "channel.sd_min": min(group.drawn.sd for group in summary.per_channel),
        "logvar_min": overall.logvar.min,
        "active_channels": 3,
        "collapsed_channels": 0,
        "clamped_fraction": 0,
        "at_bound_fraction": 0,
        "scaling_factor": overall.drawn.scaling_factor,
        "shift_factor": overall.drawn.shift_factor,
    }
    assert {name: values[name] for name in expected} == expected
    assert values["kl_mean"] == pytest.approx(values["kl_element"] * 3 * 12)
    assert values["kl_total"] == pytest.approx(values["kl_mean"] * 50)
    undefined = {name for name, value in values.items() if value != value}
    assert undefined == {name for name in FIGURES if name.startswith("mean_square.")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("samples > 50", False), ("samples >= 50", True), ("samples < 50", False), ("samples <= 50", True),
     ("samples == 50", True), ("samples != 50", False)],
)  # fmt: skip
def test_each_comparison(text: str, expected: bool) -> None:
    assert holds(text, judged(moments_of(50, 3))) is expected


@pytest.mark.parametrize("place", ["mean", "logvar"])
@pytest.mark.parametrize("comparison", [">", "<"])
def test_what_a_nan_makes_undefined_holds_whatever_is_asked(place: str, comparison: str) -> None:
    moments = moments_of(50, 3)
    moments[7, 0 if place == "mean" else 3, 0, 0] = torch.nan
    ours = judged(moments)
    for name in ("kl_mean", "channel.kl_min", "collapsed_channels", "scaling_factor"):
        assert holds(f"{name} {comparison} 0.5", ours)
    assert holds(f"clamped_fraction {comparison} 0.5", ours) is (place == "logvar" or comparison == "<")
    assert holds("nan_count == 1", ours) and holds("findings == 1", ours)


def test_one_sample_has_no_active_channels_to_count() -> None:
    ours = judged(moments_of(1, 3))
    assert holds("active_channels > 100", ours) and holds("scaling_factor < 0", ours)


def test_infinite_log_variances_are_the_extremes() -> None:
    moments = moments_of(50, 3)
    moments[7, 3, 0, 0], moments[8, 4, 0, 0] = torch.inf, -torch.inf
    ours = judged(moments)
    assert holds("logvar_max == inf", ours) and holds("logvar_min == -inf", ours)
    assert holds("nonfinite_count == 2", ours) and not holds("nan_count > 0", ours)
    assert not holds("clamped_fraction > 0.01", ours) and holds("clamped_fraction > 0.001", ours)


def test_parsing_needs_no_torch() -> None:
    code = "import sys, latentkit.health.figures as c; c.condition('kl_mean > 1'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_quantiles_are_those_of_the_values() -> None:
    moments = moments_of(50, 3)
    ours, (mean, logvar) = judged(moments), moments.double().chunk(2, dim=1)
    kl = latentkit.kl(moments).double()
    expected = {"kl": kl, "mean": mean, "logvar": logvar}
    for name, values in expected.items():
        for percent in LEVELS:
            quantile = np.quantile(values.numpy(), percent / 100, method="inverted_cdf")
            # Those of float32 elements are rounded towards zero.
            assert value_of(f"{name}.p{percent}", ours) == pytest.approx(quantile, rel=1e-12 if name == "kl" else 0.008)
    assert [value_of(f"kl.{end}", ours) for end in ("min", "max")] == pytest.approx(
        [float(kl.min()), float(kl.max())], rel=1e-12
    )
    assert holds(f"kl.p50 > {kl.median() * 0.99}", ours) and not holds("kl.p50 > 1e9", ours)


def test_quantiles_of_drawn_latents_are_of_their_mean_squares() -> None:
    latents = moments_of(50, 3)
    ours = latentkit.stats(latents, parameterization="none").result
    squares = latents.double().square().flatten(1).mean(1)
    assert value_of("mean_square.max", ours) == pytest.approx(float(squares.max()))
    assert value_of("mean_square.p50", ours) == pytest.approx(float(squares.median()), rel=0.02)
    assert holds("kl.p99 < 0", ours) and holds("logvar.p1 > 1e9", ours) and not holds("mean.p1 > 1e9", ours)


def test_a_hundredth_may_be_written_as_a_percentage() -> None:
    assert parse("clamped_fraction > 0.1%") == parse("clamped_fraction>0.1 %") == parse("clamped_fraction > 1e-3")
