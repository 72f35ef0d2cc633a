"""What is found in sample data, healthy and ill, and in copies with one thing done to them."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Original

from counted import statistics_of

import latentkit
from latentkit.health.findings import Finding, Severity, faults, find, verdict
from latentkit.health.outliers import far_above, far_below, kl_over, tail_bound
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
from latentkit.stats.sample_values import MOST_EXACT, SampleValues, cell_edges
from latentkit.stats.summary import Summary
from tests.conftest import SAMPLE_DATA

CLAMP = (-30.0, 20.0)
FLOAT32_MAX = float(np.finfo(np.float32).max)
READ = {
    "tokens": Selection(layout="blc"),
    "mean-std": Selection(parameterization="std"),
    "per-image": Selection(layout="chw"),
    "latents": Selection(parameterization="none"),
}


def measured(path: Path, selection: Selection | None = None) -> tuple[Summary, SampleValues]:
    found = find_posteriors([str(path)], selection or Selection())
    per_sample = SampleValues()
    return statistics_of(found.spans, CLAMP, per_sample=per_sample).summary(), per_sample


def sample_file(name: str) -> Path:
    return SAMPLE_DATA / (name if (SAMPLE_DATA / name).is_dir() else f"{name}.safetensors")


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Callable[[Tensor], object], str], list[Finding]]:
    """The findings of a copy of a sample file, after a function has changed its moments or latents in place."""

    def run(change: Callable[[Tensor], object], name: str = "healthy-f16") -> list[Finding]:
        key = "latents" if name == "latents" else "moments"
        tensor = load_file(sample_file(name))[key]
        change(tensor)
        save_file({key: tensor}, tmp_path / "changed.safetensors")
        return find(*measured(tmp_path / "changed.safetensors", READ.get(name)))

    return run


@pytest.mark.parametrize(
    "name",
    [
        "healthy-f32",
        "healthy-f16",
        "healthy-bf16",
        "mean-std",
        "pair",
        "tokens",
        "video",
        "shards",
        "per-image",
        "latents",
    ],
)
def test_a_healthy_encoder_gives_no_finding_and_a_line_that_says_so(name: str) -> None:
    findings = find(*measured(sample_file(name), READ.get(name)))
    assert findings == []
    assert verdict(findings) == "healthy: nothing to find fault with"


def test_collapsed_channels_are_named_with_figures_and_thresholds() -> None:
    (finding,) = find(*measured(sample_file("collapsed")))
    assert (finding.kind, finding.severity, finding.channels) == ("collapsed", Severity.serious, (0, 2, 3))
    assert finding.figure < finding.threshold == 0.01
    assert finding.sentence.startswith("channels 0, 2, 3 are collapsed: the variance of their means is at most 0.00161")
    assert "Burda et al. 2016" in finding.source


def test_numbers_in_findings_are_written_as_people_write_them(changed: Callable[..., list[Finding]]) -> None:
    def change(moments: Tensor) -> None:
        moments[:, 0] *= 1e4
        moments[:, 5] = -40

    sentences = " ".join(finding.sentence for finding in changed(change, "healthy-f32"))
    assert "(25 %) are at or below the clamp at -30, in channel 1 (up to 100 % of a channel)" in sentences
    assert "a ratio of 11," in sentences
    assert "e+" not in sentences


def test_a_deterministic_encoder_is_a_note_and_no_fault() -> None:
    findings = find(*measured(sample_file("deterministic")))
    assert kinds(findings) == ["float16_underflow", "deterministic"]
    assert faults(findings) == []
    assert verdict(findings) == "healthy: nothing to find fault with; 2 notes"
    assert "agree to 2 digits" in findings[1].sentence and findings[1].channels == (0, 1, 2, 3)


def test_what_was_written_into_the_synthetic_file_is_found_most_serious_first() -> None:
    findings = find(*measured(sample_file("synthetic-clamp")))
    assert kinds(findings) == [
        "nonfinite", "clamp_high", "clamp_low", "far_out_high", "float16_overflow", "float16_underflow",
    ]  # fmt: skip
    by_kind = {finding.kind: finding for finding in findings}
    nonfinite = by_kind["nonfinite"]
    assert "1 NaN mean, 2 infinite means, 1 NaN log-variance, 2 infinite log-variances" in nonfinite.sentence
    assert nonfinite.place is not None and nonfinite.place.index == 19
    high, low = by_kind["clamp_high"], by_kind["clamp_low"]
    assert (high.figure, high.channels) == (33, (1, 2, 3)) and high.place is not None and high.place.index == 7
    assert low.channels == (0, 2) and low.place is not None and low.place.index == 3
    assert "3 samples of 60 are far out" in by_kind["far_out_high"].sentence
    assert (
        "e^l for 33 of 4,096 elements would be infinite, and so would the KL of 3 of 60 samples"
        in by_kind["float16_overflow"].sentence
    )


def test_a_channel_of_zeros_is_dead(changed: Callable[..., list[Finding]]) -> None:
    def zero(moments: Tensor) -> None:
        moments[:, [2, 6]] = 0

    (finding,) = changed(zero)
    assert (finding.kind, finding.channels) == ("dead", (2,))
    assert finding.sentence == "channel 2 is dead: the mean is the same everywhere (0)"


def test_one_nan_is_found_where_it_is(changed: Callable[..., list[Finding]]) -> None:
    def plant(moments: Tensor) -> None:
        moments[77, 5, 1, 2] = torch.nan

    (finding,) = changed(plant)
    assert (finding.kind, finding.channels, finding.figure) == ("nonfinite", (1,), 1)
    assert finding.place is not None and (finding.place.index, finding.place.position) == (77, 16 + 6)
    assert "1 value is not finite: 1 NaN log-variance; the first is the log-variance of channel 1" in finding.sentence
    assert "sample 77" in finding.sentence


EXPECTED = {
    "healthy-f16": [],
    "latents": [],
    "collapsed": ["collapsed"],
    "deterministic": ["float16_underflow", "deterministic"],
    "synthetic-clamp": [
        "nonfinite", "clamp_high", "clamp_low", "far_out_high", "float16_overflow", "float16_underflow",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_done_to_a_copy_is_found_with_its_place_besides(
    changed: Callable[..., list[Finding]], name: str
) -> None:
    def zero(tensor: Tensor) -> None:
        tensor[:, 1] = 0

    def plant(tensor: Tensor) -> None:
        tensor[2, 1, 1, 2] = torch.nan

    def scale(tensor: Tensor) -> None:
        tensor[2, :4] *= 10

    assert kinds(changed(lambda _: None, name)) == EXPECTED[name]
    for change, kind in ((zero, "dead"), (plant, "nonfinite"), (scale, "far_out_high")):
        findings = changed(change, name)
        assert sorted(kinds(findings)) == sorted({*EXPECTED[name], kind})
        (found,) = [finding for finding in findings if finding.kind == kind]
        assert found.place is not None
        place = found.place.index, found.place.position
        if kind == "far_out_high" and name == "synthetic-clamp":
            # Those at the clamp are further out; of two whose KL agrees to 8 digits, 7 has the greater by 50 digits.
            assert found.sentence.startswith("4 samples of 60 are far out") and place == (7, 0)
        else:
            assert place == {"dead": (0, 16), "nonfinite": (2, 16 + 6), "far_out_high": (2, 0)}[kind]
            assert kind == "dead" or "sample 2" in found.sentence
        assert kind == "far_out_high" or 1 in found.channels


@pytest.mark.parametrize(("name", "factor"), [("healthy-f32", 4), ("healthy-f16", 4), ("collapsed", 10)])
def test_one_scaled_sample_is_far_out(changed: Callable[..., list[Finding]], name: str, factor: float) -> None:
    def scale(moments: Tensor) -> None:
        moments[100, :4] *= factor

    findings = [finding for finding in changed(scale, name) if finding.kind.startswith("far_out")]
    assert kinds(findings) == ["far_out_high"]
    assert findings[0].place is not None and findings[0].place.index == 100
    assert findings[0].sentence.startswith("1 sample of ") and "sample 100" in findings[0].sentence


def test_a_sample_of_zeros_is_a_note(changed: Callable[..., list[Finding]]) -> None:
    def blank(moments: Tensor) -> None:
        moments[8] = 0

    (finding,) = changed(blank)
    assert (finding.kind, finding.severity, finding.figure) == ("far_out_low", Severity.note, 0)
    assert finding.place is not None and finding.place.index == 8


def test_a_channel_of_another_scale_is_found(changed: Callable[..., list[Finding]]) -> None:
    def stretch(moments: Tensor) -> None:
        moments[:, 3] *= 30
        moments[:, 7] += 2 * math.log(30)

    findings = changed(stretch)
    assert kinds(findings) == ["unequal_scale"]
    assert findings[0].channels == (1, 3) and 30 < findings[0].figure < 50


def test_one_log_variance_for_all_is_a_note(changed: Callable[..., list[Finding]]) -> None:
    def fix(moments: Tensor) -> None:
        moments[:, 4:] = -2

    (finding,) = changed(fix)
    assert (finding.kind, finding.severity, finding.channels) == ("constant_scale", Severity.note, (0, 1, 2, 3))


def test_standard_deviations_read_as_log_variances_are_noticed() -> None:
    assert kinds(find(*measured(sample_file("mean-std"), Selection(parameterization="logvar")))) == ["misread"]


@pytest.mark.parametrize(
    ("factor", "shift", "expected"),
    [
        (None, None, []),
        (1.0, None, []),
        (0.9, 0.05, []),
        (0.18215, None, ["scaling_factor"]),
        (1.3, None, ["scaling_factor"]),
        (1.0, 1.5305, ["shift_factor"]),
        (None, -0.5, ["shift_factor"]),
    ],
)
def test_factors_far_from_the_latents_own_are_found(
    factor: float | None, shift: float | None, expected: list[str]
) -> None:
    summary, _ = measured(sample_file("healthy-f32"))
    assert kinds(find(summary, scaling_factor=factor, shift_factor=shift)) == expected


def test_a_kl_beyond_float16_is_a_note_though_no_element_is(changed: Callable[..., list[Finding]]) -> None:
    def widen(moments: Tensor) -> None:
        moments[:, :4] *= 50
        moments[:, 4:] += 6

    findings = changed(widen)
    assert kinds(findings) == ["float16_kl"]
    assert "the KL of " in findings[0].sentence


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_as_many_samples_have_an_infinite_kl_in_16_bits_as_diffusers_finds(tmp_path: Path, dtype: torch.dtype) -> None:
    name, end = {torch.float16: ("float16", 2.0**16), torch.bfloat16: ("bfloat16", 2.0**128)}[dtype]
    rng = np.random.default_rng(8)
    moments = torch.from_numpy(0.1 * rng.normal(size=(40, 8, 4, 4)))
    # Sums of every size about the end of the range, in all elements or, then, in one alone: by m², or by e^l.
    sums = end * 1.1 ** (np.arange(14) - 6.5)
    moments[:14, :4] = torch.from_numpy(np.sqrt(sums / 64)).view(-1, 1, 1, 1)
    moments[14:28, 2, 1, 3] = torch.from_numpy(np.sqrt(sums))
    moments[28:40, 5, 3, 0] = 10 + torch.arange(12) / 4
    moments = moments.to(dtype)
    save_file({"moments": moments}, tmp_path / "a.safetensors")
    summary, per_sample = measured(tmp_path / "a.safetensors")
    expected = int(Original(moments).kl().isinf().sum())
    assert kl_over(per_sample)[name] == expected and expected == (14 + 7 if dtype == torch.float16 else 14)
    over = {finding.kind: finding.sentence for finding in find(summary, per_sample)}[f"{name}_overflow"]
    assert f"so would the KL of {expected} of 40 samples" in over


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_drawn_latents_are_measured_by_their_mean_square(tmp_path: Path, dtype: torch.dtype) -> None:
    """Samples of any size: the larger ones are more than a block holds, or a unit of a sum."""
    generator = torch.Generator().manual_seed(9)
    sizes = ((40, 4, 6, 6), (3, 4, 1, 40_000), (2, 4, 1030, 260))
    values = []
    for number, size in enumerate(sizes):
        latents = (torch.randn(size, generator=generator) * torch.rand(size[0], *[1] * (len(size) - 1)) * 7).to(dtype)
        save_file({"latents": latents}, tmp_path / f"{number}.safetensors")
        values.append(np.mean(latents.double().flatten(1).numpy() ** 2, axis=1))
    expected = np.sort(np.concatenate(values))
    selection = Selection(parameterization="none")
    found = [find_posteriors([str(tmp_path / f"{number}.safetensors")], selection) for number in range(len(sizes))]
    for size in (None, 1):
        per_sample = SampleValues()
        for part in found:
            statistics_of(part.spans, CLAMP, per_sample=per_sample, batch_size=size)
        assert per_sample.count == len(expected) == 45
        assert [value for value, _ in per_sample.lowest] == pytest.approx(expected[:20], rel=1e-12)
        assert [value for value, _ in per_sample.highest] == pytest.approx(expected[:-21:-1], rel=1e-12)


@pytest.mark.parametrize(("scale", "shift"), [(1 / 0.18215, 0.0), (0.13025, 0.0), (1e-4, 0.0), (1e4, 0.0), (2.0, -3.0)])
@pytest.mark.parametrize("shape", [(60, 4, 4, 4), (1000, 4, 4, 4), (300, 16, 16, 16)], ids=str)
def test_healthy_latents_are_never_far_out_whatever_their_scale(
    tmp_path: Path, scale: float, shift: float, shape: tuple[int, ...]
) -> None:
    """Each sample has its own contrast, as pictures have."""
    generator = torch.Generator().manual_seed(shape[0])
    latents = torch.randn(shape, generator=generator) * torch.exp(
        0.3 * torch.randn(shape[0], 1, 1, 1, generator=generator)
    )
    save_file({"latents": latents * scale + shift}, tmp_path / "a.safetensors")
    assert find(*measured(tmp_path / "a.safetensors", Selection(parameterization="none"))) == []


def test_a_blank_sample_of_latents_is_a_note(changed: Callable[..., list[Finding]]) -> None:
    def blank(latents: Tensor) -> None:
        latents[8] = 0

    (finding,) = changed(blank, "latents")
    assert (finding.kind, finding.severity, finding.figure) == ("far_out_low", Severity.note, 0)
    assert "its mean square is below" in finding.sentence and "sample 8 (0)" in finding.sentence


@given(st.floats(0, FLOAT32_MAX) | st.floats(FLOAT32_MAX, 1e300))
def test_a_kl_lies_between_the_edges_of_its_cell(value: float) -> None:
    (start,), (end,) = cell_edges(np.array([value]))
    assert start <= np.float32(min(value, FLOAT32_MAX)) < end < math.inf
    assert end - start <= max(start / 128, 1e-38)
    # What is counted is what reaches the edge.
    many = counted(np.full(MOST_EXACT + 1, value))
    assert (many.at_least(start), many.at_least(end)) == (MOST_EXACT + 1, 0)


def far_from_zero_or_not(spread: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Normal about 100, without what would be negative."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        low = stats.norm.cdf(0, 100, spread)
        return stats.norm.isf((1 - low) * rng.random(n), 100, spread)

    return draw


HEALTHY = {
    "normal": lambda rng, n: rng.normal(118, 7, n),
    "wide normal": far_from_zero_or_not(20),
    "normal down to zero": far_from_zero_or_not(30),
    "narrow": lambda rng, n: rng.normal(1e5, 200, n),
    "uniform": lambda rng, n: rng.uniform(100, 200, n),
    "log-normal": lambda rng, n: np.exp(rng.normal(4, 0.5, n)),
    "wide log-normal": lambda rng, n: np.exp(rng.normal(4, 1.5, n)),
    "exponential": lambda rng, n: rng.exponential(10, n),
    "gamma": lambda rng, n: rng.gamma(0.5, 10, n),
    "Gumbel": lambda rng, n: 100 + 5 * rng.gumbel(size=n),
    "Pareto": lambda rng, n: 10 * (1 + rng.pareto(2, n)),
    "skewed down": lambda rng, n: 100 * rng.beta(8, 1, n),
    "two kinds": lambda rng, n: np.where(rng.random(n) < 0.3, rng.normal(200, 10, n), rng.normal(100, 6, n)),
}


def counted(values: np.ndarray) -> SampleValues:
    per_sample = SampleValues()
    per_sample.tally(values)
    return per_sample


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_kl_is_never_far_out_however_skewed_and_many(name: str) -> None:
    rng = np.random.default_rng(5)
    for n, repeats in ((30, 40), (100, 40), (1000, 40), (10_000, 10), (1_000_000, 1)):
        for _ in range(repeats):
            per_sample = counted(HEALTHY[name](rng, n))
            assert far_above(per_sample) is None
            assert far_below(per_sample) is None


@pytest.mark.parametrize("n", [64, 1000, 100_000])
def test_more_samples_far_out_than_the_tail_lets_expect_are_counted(n: int) -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(118, 7, n)
    values[:3] = 1000
    far = far_above(counted(values))
    assert far is not None and far.count == 3 and far.bound < 1000


@pytest.mark.parametrize("name", ["normal", "wide normal", "normal down to zero", "log-normal", "gamma"])
def test_a_blank_sample_is_far_below_whatever_the_spread_of_the_others(name: str) -> None:
    values = HEALTHY[name](np.random.default_rng(7), 1000)
    values[3] = 0
    far = far_below(counted(values))
    assert far is not None and far.count == 1


def test_the_bound_passes_the_greatest_of_many_exponentials_with_the_chance_it_states() -> None:
    n = 10**6
    bound = tail_bound(lambda share: -np.log(share), n)
    assert n * np.exp(-bound) <= 1e-3 * 1.01
    assert n * np.exp(-bound) > 0.5e-3


def test_sample_values_merge_to_what_one_run_gives() -> None:
    found = find_posteriors([str(sample_file("shards"))], Selection())
    whole = SampleValues()
    statistics_of(found.spans, CLAMP, per_sample=whole)
    merged = SampleValues()
    for posterior in reversed(found.posteriors):
        part = SampleValues()
        spans = [span for span in found.spans if span.posterior is posterior]
        statistics_of(spans, CLAMP, per_sample=part, batch_size=7)
        merged.merge(part)
    assert merged.exact is not None and whole.exact is not None and (merged.exact == whole.exact).all()
    assert merged.highest == whole.highest and merged.lowest == whole.lowest


@pytest.mark.parametrize("count", [1, 99_999, 100_000, 100_001])
def test_values_of_samples_are_exact_up_to_a_hundred_thousand_however_they_are_split(count: int) -> None:
    values = np.random.default_rng(8).gamma(3, 40, count)
    whole, merged = counted(values), SampleValues()
    for part in np.array_split(values, 7):
        merged.merge(counted(part))
    levels = (0.01, 0.5, 0.99)
    expected = np.quantile(values, levels, method="inverted_cdf")
    assert [merged.quantile(level) for level in levels] == [whole.quantile(level) for level in levels]
    assert [whole.quantile(level) for level in levels] == pytest.approx(expected, rel=0 if count <= 100_000 else 2**-7)
    assert (merged.exact is None) == (whole.exact is None) == (count > 100_000)
    assert merged.count == count and (merged.counts == whole.counts).all()
    assert whole.at_least(100.0) == pytest.approx((values >= 100).sum(), rel=0 if count <= 100_000 else 0.01)


@pytest.mark.parametrize(
    ("sign", "rows", "extreme", "place"),
    [
        (1, 1, math.inf, "; it is infinite"),
        (1, 2, math.inf, "; all are infinite"),
        (1, 2, 40.0, "; the highest that is finite is in"),
        (-1, 60, math.inf, "; all are infinite"),
        (-1, 60, 40.0, "; the lowest that is finite is in"),
    ],
)
def test_a_log_variance_at_the_clamp_has_the_place_of_none_within_it(
    changed: Callable[..., list[Finding]], sign: int, rows: int, extreme: float, place: str
) -> None:
    def change(moments: Tensor) -> None:
        moments[:rows, 4, 0, 0] = sign * extreme
        moments[0, 4, 0, 0] = sign * math.inf

    kind = "clamp_high" if sign > 0 else "clamp_low"
    (finding,) = [finding for finding in changed(change) if finding.kind == kind]
    assert place in finding.sentence
    assert (finding.place is None) == math.isinf(extreme)


def test_samples_that_are_all_one_are_no_healthy_encoder(changed: Callable[..., list[Finding]]) -> None:
    def change(moments: Tensor) -> None:
        moments[:] = moments[:1].clone()

    assert kinds(faults(changed(change))) == ["alike"]
    assert "alike" not in kinds(changed(Tensor.zero_)), "that the channels are dead says it"


def test_one_sample_is_called_one() -> None:
    moments = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    moments[:, 4:] -= 4
    assert kinds(latentkit.stats(moments).findings) == ["one_sample"]


def test_few_vectors_are_not_called_of_unequal_scale() -> None:
    """Of 2 to 5 numbers a standard deviation is anything."""
    generator = torch.Generator().manual_seed(0)
    for samples in (2, 3, 5):
        moments = torch.randn(samples, 128, generator=generator)
        moments[:, 64:] -= 5
        assert kinds(latentkit.stats(moments).findings) == []
    moments = torch.randn(30, 128, generator=generator)
    moments[:, 64:] -= 5
    moments[:, 0] *= 50
    assert "unequal_scale" in kinds(latentkit.stats(moments).findings)
