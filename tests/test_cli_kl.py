"""``latentkit kl``: rows, formats, selections; numbers against torch.distributions."""

import json
from collections.abc import Callable
from math import log
from pathlib import Path

import pytest
import torch
from conftest import DTYPES, SAMPLE_DATA, Cli, moments_of
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

Write = Callable[..., Path]

# The sample files, and how each is read where it does not say so itself.
SAMPLE_FILES = {
    "healthy-f32": (),
    "healthy-f16": (),
    "healthy-bf16": (),
    "collapsed": (),
    "deterministic": (),
    "mean-std": ("--parameterization", "std"),
    "pair": (),
    "tokens": ("--layout", "blc"),
    "video": (),
    "shards/moments-00001-of-00004": (),
    "per-image/astronaut/000": ("--layout", "chw"),
}


def posterior_of(path: Path, options: tuple[str, ...] = ()) -> Independent:
    """What the file holds, as torch's own distribution in float64."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    axis = -1 if "blc" in options else 0 if "chw" in options else 1
    halves = (tensors["mean"], tensors["logvar"]) if "mean" in tensors else tensors["moments"].chunk(2, axis)
    mean, scale = (half.double() for half in halves)
    if axis == 0:
        mean, scale = mean[None], scale[None]
    std = scale if "std" in options else torch.exp(scale.clamp(-30, 20) / 2)
    return Independent(Normal(mean, std), mean.ndim - 1)


def kl_of(posterior: Independent) -> Tensor:
    mean = posterior.mean
    return kl_divergence(posterior, Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), mean.ndim - 1))


@pytest.mark.parametrize("name", SAMPLE_FILES)
def test_kl_of_the_sample_data_agrees_with_torch_distributions(cli: Cli, name: str) -> None:
    path, options = SAMPLE_DATA / f"{name}.safetensors", SAMPLE_FILES[name]
    values = cli("kl", path, *options).values("kl")
    expected = kl_of(posterior_of(path, options))
    torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kl_of_every_dtype_agrees_with_torch_distributions(cli: Cli, write: Write, dtype: str) -> None:
    path = write("a.safetensors", moments=moments_of(dtype=dtype))
    values = cli("kl", path).values("kl")
    torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), kl_of(posterior_of(path)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_posterior_at_the_prior_has_kl_zero_to_the_last_bit(cli: Cli, write: Write, dtype: str) -> None:
    write("a.safetensors", moments=torch.zeros(3, 8, 4, 4).to(DTYPES[dtype]))
    assert cli("kl", "a.safetensors").values("kl") == [0, 0, 0]


@pytest.mark.parametrize("parameterization", ["std", "var"])
def test_a_unit_scale_has_kl_zero(cli: Cli, write: Write, parameterization: str) -> None:
    moments = torch.cat([torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)], dim=1)
    write("a.safetensors", moments=moments)
    assert cli("kl", "a.safetensors", "--parameterization", parameterization).values("kl") == [0, 0]


# ---- rows ---------------------------------------------------------------------------------------------------------


def test_a_row_is_file_tensor_index_kl(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(2))
    write("b.safetensors", moments=moments_of(1))
    rows = cli("kl", "a.safetensors", "b.safetensors").rows
    assert list(rows[0]) == ["file", "tensor", "index", "kl"]
    places = [(row["file"], row["tensor"], row["index"]) for row in rows]
    assert places == [
        ("a.safetensors", "moments", "0"),
        ("a.safetensors", "moments", "1"),
        ("b.safetensors", "moments", "0"),
    ]


def test_the_reading_is_said_once_on_stderr(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", moments=moments_of())
    outcome = cli("kl", "a.safetensors", "b.safetensors")
    assert outcome.err == "latentkit: moments: 4 channels = 2 mean + 2 logvar, bchw\n"


def test_quiet_says_nothing(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    assert cli("kl", "a.safetensors", "--quiet").err == ""


def test_verbose_tells_which_device_auto_chose(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    assert "device: cpu (chosen by auto)" in cli("kl", "a.safetensors", "--verbose").err


@pytest.mark.parametrize("options", [(), ("--per-channel",), ("--against", "b.safetensors")])
def test_bits_are_equal_for_any_batch_size(cli: Cli, write: Write, options: tuple[str, ...]) -> None:
    write("a.safetensors", moments=moments_of(70))
    write("b.safetensors", moments=moments_of(70, seed=1))
    outputs = {cli("kl", "a.safetensors", "--batch-size", size, *options).out for size in (1, 7, 64)}
    assert outputs == {cli("kl", "a.safetensors", *options).out}


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_a_pair_gives_the_bits_of_the_moments_it_was_split_from(cli: Cli, write: Write, dtype: str) -> None:
    moments = moments_of(6, dtype=dtype)
    mean, logvar = (half.contiguous() for half in moments.chunk(2, 1))
    write("a.safetensors", moments=moments)
    write("b.safetensors", mean=mean, logvar=logvar)
    assert cli("kl", "a.safetensors").values("kl") == cli("kl", "b.safetensors").values("kl")


def test_one_file_gives_the_bits_that_its_folder_gives(cli: Cli, write: Write) -> None:
    for name in "abc":
        write(f"d/{name}.safetensors", moments=moments_of(3, seed=ord(name)))
    alone = [row["kl"] for name in "abc" for row in cli("kl", f"d/{name}.safetensors").rows]
    assert [row["kl"] for row in cli("kl", "d").rows] == alone


@pytest.mark.parametrize(("channels", "height", "width"), [(2, 300, 400), (1, 500, 400), (3, 40, 50), (3, 700, 800)])
def test_a_sample_larger_than_a_block_is_measured_whole(
    cli: Cli, write: Write, channels: int, height: int, width: int
) -> None:
    path = write("a.safetensors", moments=moments_of(2, channels, height, width))
    outcome = cli("kl", path, "--per-channel")
    expected = kl_of(posterior_of(path))
    totals = torch.tensor(outcome.values("kl"), dtype=torch.float64).view(2, channels)
    torch.testing.assert_close(totals.sum(1), expected, rtol=1e-6, atol=0)
    whole = torch.tensor(cli("kl", path).values("kl"), dtype=torch.float64)
    torch.testing.assert_close(whole, expected, rtol=1e-6, atol=0)


def test_many_small_files_come_in_their_order(cli: Cli, write: Write) -> None:
    for number in range(150):
        write(f"d/{number:03}.safetensors", moments=moments_of(1, 2, 2, 2, seed=number))
    rows = cli("kl", "d").rows
    assert [row["file"] for row in rows] == [f"d/{number:03}.safetensors" for number in range(150)]
    assert rows[77]["kl"] == cli("kl", "d/077.safetensors").rows[0]["kl"]


# ---- options ------------------------------------------------------------------------------------------------------


def test_per_channel_has_a_row_a_channel_and_adds_up_to_the_kl(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(4, 3))
    rows = cli("kl", "a.safetensors", "--per-channel").rows
    assert list(rows[0]) == ["file", "tensor", "index", "channel", "kl"]
    assert [(row["index"], row["channel"]) for row in rows] == [(str(i), str(c)) for i in range(4) for c in range(3)]
    sums = [sum(float(row["kl"]) for row in rows[3 * i : 3 * i + 3]) for i in range(4)]
    assert sums == pytest.approx(cli("kl", "a.safetensors").values("kl"), rel=1e-6)


@pytest.mark.parametrize(("units", "factor"), [("nats", 1), ("bits", 1 / log(2)), ("bits-per-dim", 1 / log(2) / 24)])
def test_units_scale_the_kl(cli: Cli, write: Write, units: str, factor: float) -> None:
    write("a.safetensors", moments=moments_of())
    expected = [value * factor for value in cli("kl", "a.safetensors").values("kl")]
    assert cli("kl", "a.safetensors", "--units", units).values("kl") == pytest.approx(expected, rel=1e-15)


def test_bits_per_dim_of_a_channel_divides_by_its_own_elements(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    expected = [value / log(2) / 12 for value in cli("kl", "a.safetensors", "--per-channel").values("kl")]
    values = cli("kl", "a.safetensors", "--per-channel", "--units", "bits-per-dim").values("kl")
    assert values == pytest.approx(expected, rel=1e-15)


def test_top_ranks_the_largest_first_and_ties_in_the_order_of_the_plan(cli: Cli, write: Write) -> None:
    moments = torch.zeros(6, 4, 1, 1)
    moments[:, 0, 0, 0] = torch.tensor([1.0, 3.0, 2.0, 3.0, float("nan"), 0.0])
    write("a.safetensors", moments=moments)
    write("b.safetensors", moments=moments)
    outcome = cli("kl", "a.safetensors", "b.safetensors", "--top", 5)
    assert [(row["file"][0], row["index"]) for row in outcome.rows] == [
        ("a", "1"), ("a", "3"), ("b", "1"), ("b", "3"), ("a", "2"),
    ]  # fmt: skip
    assert "2 of 12 samples hold NaN" in outcome.err


def test_top_of_fewer_rows_gives_them_all(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(3))
    values = cli("kl", "a.safetensors", "--top", 99).values("kl")
    assert values == sorted(cli("kl", "a.safetensors").values("kl"), reverse=True)


def test_columns_adds_one_value_a_sample(cli: Cli, write: Write) -> None:
    labels = torch.tensor([7, -1, 3])
    flags = torch.tensor([True, False, True])
    write("a.safetensors", moments=moments_of(3), labels=labels, flags=flags)
    rows = cli("kl", "a.safetensors", "--columns", "labels", "--columns", "flags").rows
    assert list(rows[0]) == ["file", "tensor", "index", "kl", "labels", "flags"]
    assert [(row["labels"], row["flags"]) for row in rows] == [("7", "true"), ("-1", "false"), ("3", "true")]


@pytest.mark.parametrize("options", [("--per-channel",), ("--top", "99", "--per-channel")])
def test_columns_go_with_their_sample_in_every_form(cli: Cli, write: Write, options: tuple[str, ...]) -> None:
    write("a.safetensors", moments=moments_of(4), labels=torch.arange(4) + 10)
    rows = cli("kl", "a.safetensors", "--columns", "labels", *options).rows
    assert len(rows) == 8
    assert all(int(row["labels"]) == int(row["index"]) + 10 for row in rows)


@pytest.mark.parametrize(
    "clamp", [("--clamp-min", "-1"), ("--clamp-max", "-2.5"), ("--clamp-min", "-2", "--clamp-max", "-1")]
)
def test_the_clamp_acts_on_the_log_variance(cli: Cli, write: Write, clamp: tuple[str, ...]) -> None:
    moments = moments_of()
    bounds = dict(zip(clamp[::2], map(float, clamp[1::2]), strict=True))
    mean, logvar = moments.chunk(2, 1)
    logvar = logvar.clamp(bounds.get("--clamp-min", -30), bounds.get("--clamp-max", 20))
    write("a.safetensors", moments=moments)
    write("b.safetensors", moments=torch.cat([mean, logvar], 1))
    assert cli("kl", "a.safetensors", *clamp).values("kl") == pytest.approx(
        cli("kl", "b.safetensors").values("kl"), rel=1e-6
    )


# ---- against another ----------------------------------------------------------------------------------------------


def divergence(first: Tensor, second: Tensor) -> list[float]:
    posteriors = []
    for moments in (first, second):
        mean, logvar = moments.double().chunk(2, 1)
        posteriors.append(Independent(Normal(mean, torch.exp(logvar / 2)), 3))
    return kl_divergence(*posteriors).tolist()


def test_against_another_agrees_with_torch_distributions(cli: Cli, write: Write) -> None:
    first, second = moments_of(seed=1), moments_of(seed=2)
    write("a.safetensors", moments=first)
    write("b.safetensors", parameters=second)
    values = cli("kl", "a.safetensors", "--against", "b.safetensors").values("kl")
    assert values == pytest.approx(divergence(first, second), rel=1e-6)


def test_symmetric_is_the_sum_of_both_directions(cli: Cli, write: Write) -> None:
    first, second = moments_of(seed=1), moments_of(seed=2)
    write("a.safetensors", moments=first)
    write("b.safetensors", moments=second)
    values = cli("kl", "a.safetensors", "--against", "b.safetensors", "--symmetric").values("kl")
    both = zip(divergence(first, second), divergence(second, first), strict=True)
    assert values == pytest.approx([sum(pair) for pair in both], rel=1e-6)


def test_against_itself_is_zero(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    assert cli("kl", "a.safetensors", "--against", "a.safetensors").values("kl") == [0] * 5


def test_against_one_sample_compares_every_sample_with_it(cli: Cli, write: Write) -> None:
    first, second = moments_of(seed=1), moments_of(1, seed=2)
    write("d/a.safetensors", moments=first)
    write("d/b.safetensors", moments=first)
    write("one.safetensors", moments=second)
    values = cli("kl", "d", "--against", "one.safetensors").values("kl")
    assert values == pytest.approx(2 * divergence(first, second.expand(5, -1, -1, -1)), rel=1e-6)


def test_against_a_folder_pairs_by_relative_name(cli: Cli, write: Write) -> None:
    first, second = moments_of(seed=1), moments_of(seed=2)
    write("d/x/a.safetensors", moments=first)
    write("d/x/b.safetensors", moments=second)
    write("e/x/b.safetensors", moments=first)
    write("e/x/a.safetensors", moments=second)
    write("e/x/c.safetensors", moments=second)
    values = cli("kl", "d", "--against", "e").values("kl")
    assert values == pytest.approx(divergence(first, second) + divergence(second, first), rel=1e-6)


# ---- formats ------------------------------------------------------------------------------------------------------


@pytest.fixture
def awkward(write: Write) -> Path:
    """Values whose shortest form is long, a NaN, an infinity, and labels."""
    moments = moments_of(6)
    moments[2, 0, 0, 0] = float("nan")
    moments[4, 0, 0, 0] = float("inf")
    return write("a.safetensors", moments=moments, labels=torch.arange(6))


def as_numbers(rows: list[dict[str, object]]) -> list[tuple[int, int, float | None]]:
    """(index, label, kl) with None for what is not finite."""
    numbers = [(int(str(row["index"])), int(str(row["labels"])), row["kl"]) for row in rows]
    return [
        (i, label, None if kl is None or not abs(float(str(kl))) < 1e300 else float(str(kl)))
        for i, label, kl in numbers
    ]


@pytest.mark.parametrize("way", ["--format", "suffix"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "parquet"])
def test_every_format_holds_the_same_numbers(cli: Cli, awkward: Path, tmp_path: Path, form: str, way: str) -> None:
    options = ("--format", form, "-o", "out.txt") if way == "--format" else ("-o", f"out.{form}")
    expected = as_numbers(list(cli("kl", awkward, "--columns", "labels").rows))
    outcome = cli("kl", awkward, "--columns", "labels", *options)
    assert (outcome.status, outcome.out) == (0, "")
    assert as_numbers(read_rows(tmp_path / options[-1], form)) == expected
    assert sum(kl is None for *_, kl in expected) == 2


def read_rows(path: Path, form: str) -> list[dict[str, object]]:
    import csv

    if form == "parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.read_table(path).to_pylist())
    text = path.read_text()
    if form == "csv":
        return list(csv.DictReader(text.splitlines()))
    return [json.loads(line) for line in text.splitlines()] if form == "jsonl" else list(json.loads(text)["rows"])


def test_csv_says_nan_and_inf(cli: Cli, awkward: Path) -> None:
    kl = [row["kl"] for row in cli("kl", awkward).rows]
    assert (kl[2], kl[4]) == ("nan", "inf")


def test_csv_numbers_are_the_shortest_that_read_back_the_same(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(9))
    texts = [row["kl"] for row in cli("kl", "a.safetensors").rows]
    assert texts == [repr(float(text)) for text in texts]


def test_json_says_null_and_counts(cli: Cli, awkward: Path) -> None:
    document = cli("kl", awkward, "--format", "json").json
    assert [row["kl"] for row in document["rows"]].count(None) == 2
    assert {key: document[key] for key in ("measure", "units", "samples", "nonfinite", "skipped")} == {
        "measure": "kl", "units": "nats", "samples": 6, "nonfinite": 2, "skipped": 0,
    }  # fmt: skip
    assert document["read"] == ["moments: 4 channels = 2 mean + 2 logvar, bchw"]


def test_jsonl_is_strict_json_on_every_line(cli: Cli, awkward: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = cli("kl", awkward, "--format", "jsonl").out.splitlines()
    assert [json.loads(line, parse_constant=refuse)["index"] for line in lines] == list(range(6))


def test_no_header_leaves_out_the_first_line_only(cli: Cli, awkward: Path) -> None:
    whole = cli("kl", awkward).out
    assert cli("kl", awkward, "--no-header").out == whole.partition("\n")[2]


def test_a_dash_is_standard_output(cli: Cli, awkward: Path) -> None:
    assert cli("kl", awkward, "-o", "-").out == cli("kl", awkward).out


def test_a_file_holds_what_standard_output_holds(cli: Cli, awkward: Path, tmp_path: Path) -> None:
    cli("kl", awkward, "-o", "deep/er/out.csv")
    assert (tmp_path / "deep/er/out.csv").read_text() == cli("kl", awkward).out


def test_the_table_sums_up(cli: Cli, awkward: Path) -> None:
    out = cli("kl", awkward, "--format", "table", "--columns", "labels").out
    for word in (
        "KL of 4 finite values",
        "mean",
        "99 %",
        "not finite",
        "2 samples",
        "Histogram",
        "Largest KL",
        "labels",
    ):
        assert word in out


@pytest.mark.parametrize("rule", ["warn", "skip"])
def test_on_nonfinite_keeps_or_leaves_out_the_rows(cli: Cli, awkward: Path, rule: str) -> None:
    outcome = cli("kl", awkward, "--on-nonfinite", rule)
    assert outcome.status == 0
    assert [row["index"] for row in outcome.rows] == (["0", "1", "3", "5"] if rule == "skip" else list("012345"))
    assert "2 of 6 samples hold NaN or an infinite mean" in outcome.err


def test_on_nonfinite_error_names_the_first(cli: Cli, awkward: Path, tmp_path: Path) -> None:
    outcome = cli("kl", awkward, "--on-nonfinite", "error", "-o", "out.csv", "--quiet")
    assert outcome.status == 1
    assert "tensor 'moments', sample 2 holds NaN or an infinite mean; --on" in outcome.complaint
    outcome = cli("kl", awkward, "--against", awkward, "--on-nonfinite", "error", "--quiet")
    assert "sample 2 holds NaN or an infinite mean, or its partner does; --on" in outcome.complaint
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "parquet"])
def test_no_rows_at_all_is_still_a_whole_document(cli: Cli, write: Write, tmp_path: Path, form: str) -> None:
    write("a.safetensors", moments=torch.full((2, 4, 1, 1), float("nan")))
    outcome = cli("kl", "a.safetensors", "--on-nonfinite", "skip", "-o", f"out.{form}")
    assert outcome.status == 0
    assert read_rows(tmp_path / f"out.{form}", form) == []
    if form == "csv":
        assert (tmp_path / "out.csv").read_text() == "file,tensor,index,kl\n"


def test_rows_before_an_error_reach_the_pipe(cli: Cli, write: Write) -> None:
    moments = torch.zeros(3, 2)
    moments[2] = torch.nan
    write("a.safetensors", moments=moments)
    outcome = cli("kl", "a.safetensors", "--batch-size", 1, "--on-nonfinite", "error")
    assert outcome.status == 1
    assert outcome.out.splitlines()[1:] == ["a.safetensors,moments,0,0.0", "a.safetensors,moments,1,0.0"]
    assert "sample 2 holds NaN" in outcome.err


def test_what_is_given_twice_is_read_twice_and_said(cli: Cli, write: Write) -> None:
    write("d/a.safetensors", moments=moments_of(2))
    write("d/b.safetensors", moments=moments_of(3))
    outcome = cli("kl", "d", "./d/a.safetensors")
    assert [row["index"] for row in outcome.rows] == ["0", "1", "0", "1", "2", "0", "1"]
    assert "given more than once, and read as often: d/a.safetensors\n" in outcome.err
    assert "given more than once" not in cli("kl", "d").err


def test_how_the_others_are_read_is_said_too(cli: Cli, write: Write) -> None:
    mean, logvar = moments_of(30).chunk(2, 1)
    write("a.safetensors", moments=torch.cat([mean, logvar], 1))
    write("b.safetensors", {"parameterization": "std"}, moments=torch.cat([mean, logvar.exp()], 1))
    write("c.safetensors", {"layout": "NCHW"}, moments=torch.cat([mean, logvar.exp()], 1))
    told = "latentkit: --against: "
    assert told not in cli("kl", "a.safetensors", "--against", "a.safetensors").err
    outcome = cli("kl", "a.safetensors", "--against", "b.safetensors")
    assert f"{told}moments: 4 channels = 2 mean + 2 std, bchw, by its metadata\n" in outcome.err
    outcome = cli("kl", "a.safetensors", "--against", "c.safetensors")
    assert f"{told}no log-variance is below 0" in outcome.err and f"{told}c.safetensors: its metadata" in outcome.err
