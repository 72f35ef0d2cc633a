"""Conditions: what they read, how they are refused, and when they hold."""

import subprocess
import sys

import pytest
import torch

from latentkit.errors import RequestError
from latentkit.health.conditions import FIGURES, Condition, held, parse
from latentkit.health.findings import find
from latentkit.stats.summary import Summary
from tests.adapter_stats import Origin, Statistics
from tests.conftest import moments_of


def summary_of(moments: torch.Tensor) -> Summary:
    mean, logvar = moments.flatten(2)[:, None].chunk(2, dim=2)
    statistics = Statistics(mean.shape[2])
    statistics.update(mean, logvar, Origin("a", "moments"))
    return statistics.summary()


def holds(text: str, summary: Summary) -> bool:
    return bool(held([parse(text)], summary, find(summary)))


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


def test_a_name_like_none_is_answered_with_all() -> None:
    with pytest.raises(RequestError, match="there are samples, channels, findings"):
        parse("zzzzzz > 0")


def test_figures_are_those_of_the_summary() -> None:
    summary = summary_of(moments_of(50, 3))
    overall = summary.overall
    assert overall.kl is not None and overall.logvar is not None
    values = {name: figure.value(summary, []) for name, figure in FIGURES.items() if figure.extra is None}
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
    assert not any(value != value for value in values.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("samples > 50", False), ("samples >= 50", True), ("samples < 50", False), ("samples <= 50", True),
     ("samples == 50", True), ("samples != 50", False)],
)  # fmt: skip
def test_each_comparison(text: str, expected: bool) -> None:
    assert holds(text, summary_of(moments_of(50, 3))) is expected


@pytest.mark.parametrize("place", ["mean", "logvar"])
@pytest.mark.parametrize("comparison", [">", "<"])
def test_what_a_nan_makes_undefined_holds_whatever_is_asked(place: str, comparison: str) -> None:
    moments = moments_of(50, 3)
    moments[7, 0 if place == "mean" else 3, 0, 0] = torch.nan
    summary = summary_of(moments)
    for name in ("kl_mean", "channel.kl_min", "collapsed_channels", "scaling_factor"):
        assert holds(f"{name} {comparison} 0.5", summary)
    assert holds(f"clamped_fraction {comparison} 0.5", summary) is (place == "logvar" or comparison == "<")
    assert holds("nan_count == 1", summary) and holds("findings == 1", summary)


def test_one_sample_has_no_active_channels_to_count() -> None:
    summary = summary_of(moments_of(1, 3))
    assert holds("active_channels > 100", summary) and holds("scaling_factor < 0", summary)


def test_infinite_log_variances_are_the_extremes() -> None:
    moments = moments_of(50, 3)
    moments[7, 3, 0, 0], moments[8, 4, 0, 0] = torch.inf, -torch.inf
    summary = summary_of(moments)
    assert holds("logvar_max == inf", summary) and holds("logvar_min == -inf", summary)
    assert holds("nonfinite_count == 2", summary) and not holds("nan_count > 0", summary)
    assert not holds("clamped_fraction > 0.01", summary) and holds("clamped_fraction > 0.001", summary)


def test_parsing_needs_no_torch() -> None:
    code = "import sys, latentkit.health.conditions as c; c.parse('kl_mean > 1'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
