"""``latentkit nll``: numbers against torch.distributions, pairing, draws, the affine undone."""

import json
from collections.abc import Callable
from math import log, pi, sqrt
from pathlib import Path

import pytest
import torch
from conftest import DTYPES, SAMPLE_DATA, Cli, moments_of
from safetensors.torch import load_file, save_file
from test_cli_kl import SAMPLE_FILES, posterior_of
from torch import Tensor
from torch.distributions import Independent

import latentkit

Write = Callable[..., Path]


def close(values: list[float], expected: Tensor, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), expected.double(), rtol=rtol, atol=rtol)


def close_to(values: list[float], posterior: Independent, drawn: Tensor) -> None:
    """Within 1e-6 of the sum of the terms' sizes: the terms have both signs, and may all but cancel."""
    logvar = posterior.variance.log()
    sizes = logvar.abs() + (drawn - posterior.mean) ** 2 / posterior.variance + log(2 * pi)
    errors = (torch.tensor(values, dtype=torch.float64) + posterior.log_prob(drawn)).abs()
    assert (errors <= 1e-6 * sizes.flatten(1).sum(1) / 2).all()


@pytest.mark.parametrize("name", SAMPLE_FILES)
def test_nll_of_the_sample_data_agrees_with_torch_distributions(cli: Cli, tmp_path: Path, name: str) -> None:
    path, options = SAMPLE_DATA / f"{name}.safetensors", SAMPLE_FILES[name]
    cli("sample", path, "-o", "drawn.safetensors", "--dtype", "float32", *options)
    drawn = load_file(tmp_path / "drawn.safetensors")["latents"].double()
    posterior = posterior_of(path, options)
    values = cli("nll", path, "--latents", "drawn.safetensors", *options).values("nll")
    close_to(values, posterior, drawn.view(posterior.mean.shape))


def test_nll_of_the_latents_that_ship_with_the_sample_data(cli: Cli) -> None:
    path, drawn = SAMPLE_DATA / "healthy-f32.safetensors", SAMPLE_DATA / "latents.safetensors"
    values = cli("nll", path, "--latents", drawn).values("nll")
    close_to(values, posterior_of(path), load_file(drawn)["latents"].double())


@pytest.mark.parametrize("dtype", DTYPES)
def test_nll_of_every_dtype_agrees_with_torch_distributions(cli: Cli, write: Write, dtype: str) -> None:
    path = write("a.safetensors", moments=moments_of(dtype=dtype))
    drawn = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(3))
    write("b.safetensors", latents=drawn)
    close(cli("nll", path, "--latents", "b.safetensors").values("nll"), -posterior_of(path).log_prob(drawn.double()))


def test_mean_nll_of_drawn_latents_is_the_entropy(cli: Cli) -> None:
    path = SAMPLE_DATA / "healthy-f32.safetensors"
    cli("sample", path, "-o", "drawn.safetensors", "--dtype", "float32", "--seed", 5)
    values = torch.tensor(cli("nll", path, "--latents", "drawn.safetensors").values("nll"), dtype=torch.float64)
    _, logvar = load_file(path)["moments"].double().chunk(2, 1)
    entropy = (logvar + log(2 * pi) + 1).flatten(1).sum(1) / 2
    excess = values - entropy
    # Each element adds ½ (ε² − 1), whose variance is ½.
    elements = logvar[0].numel()
    assert abs(float(excess.mean())) < 5 * sqrt(elements / 2 / len(values))
    assert float(excess.std()) == pytest.approx(sqrt(elements / 2), rel=0.2)


def test_draws_have_a_row_each(cli: Cli, write: Write, tmp_path: Path) -> None:
    path = write("a.safetensors", moments=moments_of())
    cli("sample", path, "-o", "b.safetensors", "--draws", 3)
    outcome = cli("nll", path, "--latents", "b.safetensors")
    assert list(outcome.rows[0]) == ["file", "tensor", "index", "draw", "nll"]
    assert [(row["index"], row["draw"]) for row in outcome.rows] == [
        (str(i), str(d)) for i in range(5) for d in range(3)
    ]
    drawn = load_file(tmp_path / "b.safetensors")["latents"].double()
    expected = torch.stack([-posterior_of(path).log_prob(draw) for draw in drawn], 1)
    close(outcome.values("nll"), expected.flatten())


def test_a_leading_axis_of_latents_from_elsewhere_is_draws(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", latents=torch.zeros(4, 5, 2, 3, 4))
    assert [row["draw"] for row in cli("nll", "a.safetensors", "--latents", "b.safetensors").rows[:4]] == list("0123")


@pytest.mark.parametrize("size", [1, 7, 64])
def test_bits_are_equal_for_any_batch_size(cli: Cli, write: Write, size: int) -> None:
    write("a.safetensors", moments=moments_of(70))
    cli("sample", "a.safetensors", "-o", "b.safetensors")
    arguments = ("nll", "a.safetensors", "--latents", "b.safetensors")
    assert cli(*arguments, "--batch-size", size).out == cli(*arguments).out


def test_a_pair_gives_the_bits_of_the_moments_it_was_split_from(cli: Cli, write: Write) -> None:
    moments = moments_of(6, dtype="F16")
    mean, logvar = (half.contiguous() for half in moments.chunk(2, 1))
    write("a.safetensors", moments=moments)
    write("b.safetensors", mean=mean, logvar=logvar)
    write("c.safetensors", latents=torch.zeros(6, 2, 3, 4))
    values = [
        cli("nll", name, "--latents", "c.safetensors").values("nll") for name in ("a.safetensors", "b.safetensors")
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("size", [(300, 400), (900, 800)])
def test_a_sample_larger_than_a_block_is_measured_whole(
    cli: Cli, write: Write, tmp_path: Path, size: tuple[int, int]
) -> None:
    path = write("a.safetensors", moments=moments_of(2, 2, *size))
    cli("sample", path, "-o", "b.safetensors", "--draws", 2)
    drawn = load_file(tmp_path / "b.safetensors")["latents"].double()
    expected = torch.stack([-posterior_of(path).log_prob(draw) for draw in drawn], 1)
    close(cli("nll", path, "--latents", "b.safetensors").values("nll"), expected.flatten())


# ---- the affine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("--scaling-factor", "0.18215"),
        ("--shift-factor", "0.7", "--scaling-factor", "3"),
        ("--normalization", "n.json"),
        ("--normalization", "n.json", "--scaling-factor", "0.5"),
    ],
)
def test_the_affine_of_the_metadata_is_undone(cli: Cli, write: Write, tmp_path: Path, options: tuple[str, ...]) -> None:
    write("a.safetensors", moments=moments_of())
    (tmp_path / "n.json").write_text(json.dumps({"latents_mean": [0.5, -1], "latents_std": [2, 4]}))
    cli("sample", "a.safetensors", "-o", "raw.safetensors")
    cli("sample", "a.safetensors", "-o", "scaled.safetensors", *options)
    raw = cli("nll", "a.safetensors", "--latents", "raw.safetensors").values("nll")
    scaled = cli("nll", "a.safetensors", "--latents", "scaled.safetensors").values("nll")
    assert scaled == pytest.approx(raw, rel=1e-5)


def test_flags_undo_the_affine_of_latents_from_elsewhere(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    raw = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(3))
    write("raw.safetensors", latents=raw)
    write("scaled.safetensors", latents=(raw - 0.5) * 0.25)
    expected = cli("nll", "a.safetensors", "--latents", "raw.safetensors").values("nll")
    flags = ("--shift-factor", "0.5", "--scaling-factor", "0.25")
    assert cli("nll", "a.safetensors", "--latents", "scaled.safetensors", *flags).values("nll") == pytest.approx(
        expected, rel=1e-5
    )


def test_flags_that_say_what_the_metadata_says_are_accepted(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    flags = ("--scaling-factor", "0.25")
    cli("sample", "a.safetensors", "-o", "b.safetensors", *flags)
    assert cli("nll", "a.safetensors", "--latents", "b.safetensors", *flags).status == 0


def test_flags_against_the_metadata_are_refused(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    cli("sample", "a.safetensors", "-o", "b.safetensors")
    outcome = cli("nll", "a.safetensors", "--latents", "b.safetensors", "--scaling-factor", "0.25")
    assert outcome.status == 2
    assert "b.safetensors: tensor 'latents'" in outcome.complaint
    assert "leave the flags out" in outcome.complaint


@pytest.mark.parametrize(
    "affine",
    [
        "",
        "[]",
        "{}",
        '{"shift": [0], "scale": [0]}',
        '{"shift": [], "scale": [1]}',
        '{"shift": [NaN], "scale": [1]}',
        '{"shift": [0, 0], "scale": [1, 1, 1]}',
        '{"shift": "12", "scale": [1]}',
        '{"shift": [1' + "0" * 400 + '], "scale": [1]}',
        "[" * 100_000,
    ],
)
def test_an_affine_that_cannot_be_undone_is_an_error_or_another_programs_word(
    cli: Cli, write: Write, affine: str
) -> None:
    write("a.safetensors", moments=moments_of(3))
    write("b.safetensors", {"affine": affine, "noise_recipe": "1"}, latents=torch.zeros(3, 2, 3, 4))
    outcome = cli("nll", "a.safetensors", "--latents", "b.safetensors")
    assert outcome.status == 1
    assert "b.safetensors: tensor 'latents': its affine is not" in outcome.complaint
    write("c.safetensors", {"affine": affine}, latents=torch.zeros(3, 2, 3, 4))
    write("plain.safetensors", latents=torch.zeros(3, 2, 3, 4))
    outcome = cli("nll", "a.safetensors", "--latents", "c.safetensors")
    assert outcome.values("nll") == cli("nll", "a.safetensors", "--latents", "plain.safetensors").values("nll")
    assert f"c.safetensors: its metadata says affine {affine[:40]!r}, which means nothing here" in outcome.err


def test_an_affine_for_other_channels_is_refused(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(3))
    write("b.safetensors", {"affine": '{"shift": [0, 0, 0], "scale": [1]}'}, latents=torch.zeros(3, 2, 3, 4))
    outcome = cli("nll", "a.safetensors", "--latents", "b.safetensors")
    assert outcome.status == 2
    assert "for 3 channels, its posterior has 2" in outcome.complaint


# ---- finding latents ----------------------------------------------------------------------------------------------


def test_a_folder_of_latents_mirrors_the_inputs(cli: Cli, write: Write) -> None:
    for name in ("x/a", "y/a", "b"):
        write(f"d/{name}.safetensors", moments=moments_of(seed=ord(name[0])))
    cli("sample", "d", "-o", "drawn")
    outcome = cli("nll", "d", "--latents", "drawn")
    assert [row["file"] for row in outcome.rows[::5]] == [f"d/{name}.safetensors" for name in ("b", "x/a", "y/a")]
    alone = cli("nll", "d/x/a.safetensors", "--latents", "drawn/x/a.safetensors")
    assert [row["nll"] for row in outcome.rows[5:10]] == [row["nll"] for row in alone.rows]


def test_several_keys_find_the_latents_drawn_from_them(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(), moments_flip=moments_of(seed=1), other=moments_of(seed=2))
    keys = ("--key", "moments*", "--key", "other")
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--mode", *keys)
    outcome = cli("nll", "a.safetensors", "--latents", "b.safetensors", *keys)
    assert [row["tensor"] for row in outcome.rows[::5]] == ["moments", "moments_flip", "other"]
    # At its mode a posterior is densest: nothing of the deviation is left.
    logvar = torch.cat([moments_of(seed=seed)[:, 2:] for seed in range(3)]).double()
    close(outcome.values("nll"), (logvar + log(2 * pi)).flatten(1).sum(1) / 2)


@pytest.mark.parametrize(
    ("latents", "metadata"),
    [
        (torch.zeros(5, 2, 3, 4).half(), None),
        (torch.zeros(2, 5, 2, 3, 4), {"draws": "2"}),
        (torch.zeros(5, 2, 3, 4, dtype=torch.int32), None),
        (torch.zeros(5, 2, 4, 3), None),
        (torch.zeros(4, 2, 3, 4), None),
    ],
    ids=["other dtype", "other draws", "integers", "other shape", "too few"],
)
def test_shards_that_do_not_go_end_to_end_are_an_error(
    cli: Cli, write: Write, tmp_path: Path, latents: Tensor, metadata: dict[str, str] | None
) -> None:
    for name in "ab":
        write(f"d/{name}.safetensors", moments=moments_of())
    write("e/1.safetensors", latents=torch.zeros(5, 2, 3, 4))
    write("e/2.safetensors", metadata, latents=latents)
    weight_map = {"00001/latents": "1.safetensors", "00002/latents": "2.safetensors"}
    (tmp_path / "e/latents.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    outcome = cli("nll", "d", "--latents", "e/latents.safetensors.index.json")
    assert outcome.status == 1
    assert ".safetensors" in outcome.complaint


def test_the_only_tensor_that_fits_is_the_latents(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", z=torch.zeros(5, 2, 3, 4), labels=torch.zeros(5))
    assert cli("nll", "a.safetensors", "--latents", "b.safetensors").status == 0


def test_latents_key_chooses_among_several(cli: Cli, write: Write) -> None:
    path = write("a.safetensors", moments=moments_of())
    y, z = torch.zeros(5, 2, 3, 4), torch.ones(5, 2, 3, 4)
    write("b.safetensors", y=y, z=z)
    refused = cli("nll", path, "--latents", "b.safetensors")
    assert refused.status == 2
    assert all(words in refused.complaint for words in ("'y' F32 [5, 2, 3, 4]", "'z'", "--latents-key"))
    close(
        cli("nll", path, "--latents", "b.safetensors", "--latents-key", "z").values("nll"),
        -posterior_of(path).log_prob(z.double()),
    )


@pytest.mark.parametrize("shape", [(5, 2, 3, 3), (4, 2, 3, 4), (5, 3, 4), (2, 2, 5, 2, 3, 4)])
def test_latents_of_another_shape_are_an_error_that_shows_both(cli: Cli, write: Write, shape: tuple[int, ...]) -> None:
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", latents=torch.zeros(shape))
    outcome = cli("nll", "a.safetensors", "--latents", "b.safetensors")
    assert outcome.status == 1
    assert "b.safetensors: tensor 'latents'" in outcome.complaint
    assert str(list(shape)) in outcome.complaint
    assert "[5, 2, 3, 4]" in outcome.complaint


def test_a_missing_partner_is_named(cli: Cli, write: Write) -> None:
    for name in "ab":
        write(f"d/{name}.safetensors", moments=moments_of())
    write("e/a.safetensors", latents=torch.zeros(5, 2, 3, 4))
    write("e/c.safetensors", latents=torch.zeros(5, 2, 3, 4))
    outcome = cli("nll", "d", "--latents", "e")
    assert outcome.status == 2
    assert "d/b.safetensors" in outcome.complaint


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_coarsely_rounded_latents_get_a_note(cli: Cli, write: Write, dtype: str) -> None:
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", latents=torch.zeros(5, 2, 3, 4).to(DTYPES[dtype]))
    assert f"latents stored as {dtype} are rounded" in cli("nll", "a.safetensors", "--latents", "b.safetensors").err


def test_nan_latents_give_nan(cli: Cli, tmp_path: Path, write: Write) -> None:
    write("a.safetensors", moments=moments_of(2))
    latents = torch.zeros(2, 2, 3, 4)
    latents[1, 0, 0, 0] = float("nan")
    save_file({"latents": latents}, tmp_path / "b.safetensors")
    assert cli("nll", "a.safetensors", "--latents", "b.safetensors").rows[1]["nll"] == "nan"


@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "parquet", "table"])
def test_every_format_is_written(cli: Cli, write: Write, form: str) -> None:
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", latents=torch.zeros(5, 2, 3, 4))
    way = ("--format", "table") if form == "table" else ("-o", f"out.{form}")
    assert cli("nll", "a.safetensors", "--latents", "b.safetensors", *way).status == 0


CHOICES = {"list": ("--indices", "list.csv"), "few": ("--limit", "2"), "some": ("--every", "4")}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("shards", [(), ("--samples-per-shard", "5"), ("--samples-per-shard", "100")], ids=str)
def test_samples_that_are_chosen_keep_their_latents(
    cli: Cli, write: Write, tmp_path: Path, shards: tuple[str, ...], choice: str
) -> None:
    for name, count in ("a", 3), ("b", 4), ("c", 3):
        write(f"in/{name}.safetensors", moments=moments_of(count, 4, seed=count))
    rows = ["in/c.safetensors,moments,2", "in/a.safetensors,moments,1", "in/b.safetensors,moments,0"]
    (tmp_path / "list.csv").write_text("\n".join(["file,tensor,index", *rows]))
    assert cli("sample", "in", "-o", "out", "--draws", 2, *shards).status == 0
    whole = {tuple(row.values())[:4]: row["nll"] for row in cli("nll", "in", "--latents", "out").rows}
    outcome = cli("nll", "in", "--latents", "out", *CHOICES[choice])
    assert len(outcome.rows) == {"list": 6, "few": 4, "some": 6}[choice]
    assert all(whole[tuple(row.values())[:4]] == row["nll"] for row in outcome.rows)
    assert cli("sample", "in", "--verify", "out", *CHOICES[choice]).status == 0
    drawn = latentkit.sample("in", draws=2)
    values = latentkit.nll("in", drawn, indices="list.csv")
    assert values.ravel().tolist() == [float(whole[(*row.split(","), draw)]) for row in rows for draw in "01"]


def test_a_choice_makes_no_single_file_of_many(cli: Cli, write: Write) -> None:
    for name in ("in/a", "in/b", "x"):
        write(f"{name}.safetensors", moments=moments_of(3))
    outcome = cli("kl", "in", "--against", "x.safetensors", "--limit", 2)
    assert (outcome.status, "has no partner" in outcome.complaint) == (2, True)


def test_a_dry_run_counts_what_is_set_beside(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(5))
    alone = cli("kl", "a.safetensors", "--limit", 3, "--dry-run").json["bytes_in"]
    assert (
        cli("kl", "a.safetensors", "--against", "a.safetensors", "--limit", 3, "--dry-run").json["bytes_in"]
        == 2 * alone
    )
    assert cli("sample", "a.safetensors", "-o", "z.safetensors", "--draws", 4).status == 0
    plan = cli("nll", "a.safetensors", "--latents", "z.safetensors", "--limit", 3, "--dry-run").json
    assert plan["bytes_in"] == alone + 4 * alone // 2


def test_latents_of_some_samples_go_with_those_alone(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(9))
    assert cli("sample", "a.safetensors", "-o", "z.safetensors", "--limit", 4).status == 0
    outcome = cli("nll", "a.safetensors", "--latents", "z.safetensors")
    assert (outcome.status, "which convert --indices or --limit writes" in outcome.complaint) == (1, True)
    assert cli("convert", "a.safetensors", "-o", "some.safetensors", "--limit", 4).status == 0
    assert len(cli("nll", "some.safetensors", "--latents", "z.safetensors").rows) == 4
