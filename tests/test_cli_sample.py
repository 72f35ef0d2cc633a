"""``latentkit sample``: the same bytes for a seed, what outputs hold, and who can read them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from conftest import DTYPES, SAMPLE_DATA, Cli, files_below, moments_of
from safetensors.torch import load_file, save
from torch import Tensor

Write = Callable[..., Path]


def latents_of(path: Path, key: str = "latents") -> Tensor:
    return load_file(path)[key]


def metadata_of(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, "np") as file:
        return dict(file.metadata())


# ---- the same bytes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_seed_gives_the_same_bytes_at_any_batch_size(cli: Cli, write: Write, tmp_path: Path, dtype: str) -> None:
    write("a.safetensors", moments=moments_of(70, dtype=dtype), labels=torch.arange(70))
    for number, options in enumerate([(), (), ("--batch-size", "1"), ("--batch-size", "7"), ("--batch-size", "64")]):
        outcome = cli("sample", "a.safetensors", "-o", f"{number}.safetensors", "--seed", 7, "--carry", "*", *options)
        assert outcome.status == 0
    assert len({(tmp_path / f"{number}.safetensors").read_bytes() for number in range(5)}) == 1


def test_another_seed_gives_other_latents(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    cli("sample", "a.safetensors", "-o", "0.safetensors")
    cli("sample", "a.safetensors", "-o", "1.safetensors", "--seed", 1)
    assert not latents_of(tmp_path / "0.safetensors").equal(latents_of(tmp_path / "1.safetensors"))


def test_a_shard_alone_gives_the_bytes_that_its_folder_gives(cli: Cli, write: Write, tmp_path: Path) -> None:
    for name in "abc":
        write(f"d/{name}.safetensors", moments=moments_of())
    cli("sample", "d", "-o", "whole")
    cli("sample", "d/b.safetensors", "-o", "alone")
    assert files_below(tmp_path / "whole") == ["a.safetensors", "b.safetensors", "c.safetensors"]
    assert (tmp_path / "alone/b.safetensors").read_bytes() == (tmp_path / "whole/b.safetensors").read_bytes()


def test_equal_moments_under_two_names_get_different_noise(cli: Cli, write: Write, tmp_path: Path) -> None:
    for name in "ab":
        write(f"d/{name}.safetensors", moments=moments_of())
    cli("sample", "d", "-o", "out")
    assert not latents_of(tmp_path / "out/a.safetensors").equal(latents_of(tmp_path / "out/b.safetensors"))


def test_a_pair_is_drawn_by_the_key_of_its_mean(cli: Cli, write: Write, tmp_path: Path) -> None:
    mean, logvar = (half.contiguous() for half in moments_of().chunk(2, 1))
    write("a.safetensors", mean=mean, logvar=logvar)
    write("b/a.safetensors", mean=torch.cat([mean, logvar], 1))
    cli("sample", "a.safetensors", "-o", "1.safetensors")
    cli("sample", "b/a.safetensors", "--key", "mean", "-o", "2.safetensors")
    assert latents_of(tmp_path / "1.safetensors").equal(latents_of(tmp_path / "2.safetensors"))


def test_the_first_draws_stay_the_same_when_there_are_more(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    for draws in (2, 4):
        cli("sample", "a.safetensors", "-o", f"{draws}.safetensors", "--draws", draws)
    cli("sample", "a.safetensors", "-o", "1.safetensors")
    two, four = latents_of(tmp_path / "2.safetensors"), latents_of(tmp_path / "4.safetensors")
    assert (two.shape, four.shape) == ((2, 5, 2, 3, 4), (4, 5, 2, 3, 4))
    assert two.equal(four[:2])
    assert two[0].equal(latents_of(tmp_path / "1.safetensors"))
    assert not two[0].equal(two[1])


@pytest.mark.parametrize("carry", [(), ("--carry", "labels")])
def test_a_pipe_gets_the_bytes_of_the_file(cli: Cli, write: Write, tmp_path: Path, carry: tuple[str, ...]) -> None:
    import os

    write("a.safetensors", moments=moments_of(40), labels=torch.arange(40))
    cli("sample", "a.safetensors", "-o", "b.safetensors", *carry)
    read, end = os.pipe()
    try:
        assert cli("sample", "a.safetensors", "-o", f"/dev/fd/{end}", *carry).status == 0
        assert os.read(read, 1 << 16) == (tmp_path / "b.safetensors").read_bytes()
    finally:
        os.close(read)
        os.close(end)


@pytest.mark.parametrize("shape", [(400, 400), (70_000, 3), (3, 140_000)])
def test_a_sample_larger_than_a_block_has_the_noise_of_its_elements(
    cli: Cli, write: Write, tmp_path: Path, shape: tuple[int, int]
) -> None:
    # Means of zero and the same scale everywhere: what is drawn is the noise, and that goes by position alone.
    free = shape[0] * shape[1]
    write("big/a.safetensors", moments=torch.zeros(1, 8, *shape))
    write("small/a.safetensors", moments=torch.zeros(free // 1000, 8, 10, 100))
    for name in ("big", "small"):
        assert cli("sample", f"{name}/a.safetensors", "-o", f"{name}.safetensors").status == 0
    big, small = latents_of(tmp_path / "big.safetensors"), latents_of(tmp_path / "small.safetensors")
    assert big.shape == (1, 4, *shape)
    assert big.flatten().equal(small.flatten())


@pytest.mark.parametrize("channels", [4, 1])
def test_a_large_sample_joins_each_mean_with_its_own_scale(
    cli: Cli, write: Write, tmp_path: Path, channels: int
) -> None:
    moments = moments_of(2, channels, 300, 500)
    write("a.safetensors", moments=moments)
    write("b/a.safetensors", moments=torch.zeros_like(moments))
    cli("sample", "a.safetensors", "-o", "a_latents.safetensors")
    cli("sample", "b/a.safetensors", "-o", "b_latents.safetensors")
    mean, logvar = moments.double().chunk(2, 1)
    noise = latents_of(tmp_path / "b_latents.safetensors").double()
    drawn = latents_of(tmp_path / "a_latents.safetensors").double()
    torch.testing.assert_close(drawn, mean + torch.exp(logvar / 2) * noise, rtol=1e-6, atol=1e-6)


def test_many_small_files_are_all_written(cli: Cli, write: Write, tmp_path: Path) -> None:
    for number in range(150):
        write(f"d/{number % 7}/{number:03}.safetensors", moments=moments_of(1, 2, 2, 2, seed=number))
    assert cli("sample", "d", "-o", "out", "--mode").status == 0
    assert files_below(tmp_path / "out") == files_below(tmp_path / "d")
    for number in (0, 77, 149):
        drawn = latents_of(tmp_path / f"out/{number % 7}/{number:03}.safetensors")
        assert drawn.equal(moments_of(1, 2, 2, 2, seed=number)[:, :2])


# ---- names for noise ----------------------------------------------------------------------------------------------


def test_stream_replaces_the_name_of_a_single_input(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", moments=moments_of())
    cli("sample", "a.safetensors", "-o", "1.safetensors")
    cli("sample", "b.safetensors", "-o", "2.safetensors", "--stream", "a.safetensors")
    assert latents_of(tmp_path / "1.safetensors").equal(latents_of(tmp_path / "2.safetensors"))


def test_relative_to_names_inputs_and_outputs_from_there(cli: Cli, write: Write, tmp_path: Path) -> None:
    for folder in ("d/x", "d/y"):
        write(f"{folder}/a.safetensors", moments=moments_of())
    cli("sample", "d", "-o", "whole")
    outcome = cli("sample", "d/x/a.safetensors", "d/y/a.safetensors", "--relative-to", "d", "-o", "apart")
    assert outcome.status == 0
    assert files_below(tmp_path / "apart") == ["x/a.safetensors", "y/a.safetensors"]
    for name in files_below(tmp_path / "apart"):
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [
        (("d/x/a.safetensors", "d/y/b.safetensors"), "--relative-to"),
        (("d/x/a.safetensors", "d/y/a.safetensors"), "--relative-to"),
        (("d/x", "d/y"), "--relative-to"),
        (("d/x/a.safetensors", "d/x/a.safetensors"), "is given twice"),
        (("d", "--stream", "s"), "--stream names a single input"),
        (("d/x/a.safetensors", "--relative-to", "d/y"), "not inside"),
    ],
)
def test_names_that_would_share_noise_or_cannot_be_told_are_refused(
    cli: Cli, write: Write, tmp_path: Path, arguments: tuple[str, ...], way_out: str
) -> None:
    for name in ("x/a", "y/a", "y/b"):
        write(f"d/{name}.safetensors", moments=moments_of())
    outcome = cli("sample", *arguments, "-o", "out")
    assert outcome.status == 2
    assert way_out in outcome.complaint
    assert not (tmp_path / "out").exists()


# ---- what is drawn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_mode_is_the_mean(cli: Cli, write: Write, tmp_path: Path, dtype: str) -> None:
    moments = moments_of(dtype=dtype)
    write("a.safetensors", moments=moments)
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--mode")
    assert latents_of(tmp_path / "b.safetensors").equal(moments[:, :2])


def test_mode_in_float64_is_the_mean_whole(cli: Cli, write: Write, tmp_path: Path) -> None:
    moments = torch.rand(3, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    write("a.safetensors", moments=moments)
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--mode", "--dtype", "float64")
    assert latents_of(tmp_path / "b.safetensors").equal(moments[:, :2])


def test_temperature_zero_is_the_mode(cli: Cli, write: Write, tmp_path: Path) -> None:
    moments = moments_of()
    write("a.safetensors", moments=moments)
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--temperature", "0")
    assert latents_of(tmp_path / "b.safetensors").equal(moments[:, :2])


@pytest.mark.parametrize(
    "options", [("--layout", "blc"), ("--layout", "bcl"), ("--layout", "chw"), ("--layout", "bbc")]
)
def test_latents_have_the_layout_of_the_moments(
    cli: Cli, write: Write, tmp_path: Path, options: tuple[str, ...]
) -> None:
    moments = torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(0))
    axis = {"blc": 2, "bcl": 1, "chw": 0, "bbc": 2}[options[1]]
    write("a.safetensors", moments=moments)
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--mode", *options)
    assert latents_of(tmp_path / "b.safetensors").equal(moments.chunk(2, axis)[0])


@pytest.mark.parametrize(
    ("stored", "drawn"), [("F64", "F32"), ("F8_E4M3", "F32"), ("F8_E5M2", "F32"), ("F16", "F16"), ("BF16", "BF16")]
)
def test_the_dtype_is_the_inputs_or_float32_for_8_bit_and_float64(
    cli: Cli, write: Write, tmp_path: Path, stored: str, drawn: str
) -> None:
    write("a.safetensors", moments=moments_of(dtype=stored))
    outcome = cli("sample", "a.safetensors", "-o", "b.safetensors")
    assert latents_of(tmp_path / "b.safetensors").dtype == DTYPES[drawn]
    assert ("rounded to float32" in outcome.err) == (stored == "F64")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_narrower_dtype_is_the_float32_latents_rounded_once(
    cli: Cli, write: Write, tmp_path: Path, dtype: str
) -> None:
    write("a.safetensors", moments=moments_of())
    cli("sample", "a.safetensors", "-o", "wide.safetensors")
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--dtype", dtype)
    expected = latents_of(tmp_path / "wide.safetensors").to(getattr(torch, dtype))
    assert latents_of(tmp_path / "b.safetensors").equal(expected)


def test_factors_shift_and_then_scale(cli: Cli, write: Write, tmp_path: Path) -> None:
    moments = moments_of()
    write("a.safetensors", moments=moments)
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--mode", "--shift-factor", 0.5, "--scaling-factor", 0.25)
    assert latents_of(tmp_path / "b.safetensors").equal((moments[:, :2] - 0.5) * 0.25)


def test_a_normalization_file_acts_a_channel_and_before_the_factors(cli: Cli, write: Write, tmp_path: Path) -> None:
    moments = moments_of()
    write("a.safetensors", moments=moments)
    (tmp_path / "n.json").write_text(json.dumps({"latents_mean": [0.5, -1], "latents_std": [2, 4]}))
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--mode", "--normalization", "n.json", "--scaling-factor", 8)
    expected = (moments[:, :2] - torch.tensor([0.5, -1]).view(2, 1, 1)) / torch.tensor([2.0, 4]).view(2, 1, 1) * 8
    torch.testing.assert_close(latents_of(tmp_path / "b.safetensors"), expected, rtol=1e-6, atol=1e-6)


def test_several_keys_are_drawn_under_names_of_their_own(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of(), moments_flip=moments_of(seed=1), other=moments_of(seed=2))
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--key", "moments*", "--key", "other", "--mode")
    drawn = load_file(tmp_path / "b.safetensors")
    assert sorted(drawn) == ["latents", "latents.other", "latents_flip"]
    assert drawn["latents.other"].equal(moments_of(seed=2)[:, :2])


def test_one_key_among_several_gets_the_noise_it_gets_with_the_others(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of(), moments_flip=moments_of())
    cli("sample", "a.safetensors", "-o", "both.safetensors", "--key", "moments*")
    cli("sample", "a.safetensors", "-o", "one.safetensors", "--key", "moments_flip")
    both, one = load_file(tmp_path / "both.safetensors"), load_file(tmp_path / "one.safetensors")
    assert list(one) == ["latents_flip"]
    assert one["latents_flip"].equal(both["latents_flip"])
    assert not both["latents_flip"].equal(both["latents"])


# ---- carried tensors ----------------------------------------------------------------------------------------------


def bits_equal(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype and a.shape == b.shape and a.view(-1).view(torch.uint8).equal(b.view(-1).view(torch.uint8))
    )


@pytest.mark.parametrize("dtype", [*DTYPES.values(), torch.int64, torch.uint8, torch.bool, torch.int32])
def test_carried_tensors_keep_every_byte(cli: Cli, write: Write, tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(0, 2 if dtype == torch.bool else 256, (4 * 8,), generator=generator).to(torch.uint8)
    tensor = data.view(dtype).view(4, -1)
    write("a.safetensors", moments=moments_of(4), other=tensor)
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--carry", "other")
    assert bits_equal(load_file(tmp_path / "b.safetensors")["other"], tensor)


def test_carry_everything_takes_all_but_the_moments(cli: Cli, write: Write, tmp_path: Path) -> None:
    big = torch.arange(400_000, dtype=torch.float64)
    write("a.safetensors", moments=moments_of(), labels=torch.arange(5), big=big, empty=torch.zeros(0))
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--carry", "*")
    drawn = load_file(tmp_path / "b.safetensors")
    assert sorted(drawn) == ["big", "empty", "labels", "latents"]
    assert drawn["big"].equal(big)


def test_the_moments_are_carried_when_named(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--carry", "moments")
    assert load_file(tmp_path / "b.safetensors")["moments"].equal(moments_of())


@pytest.mark.parametrize(("key", "words"), [("label", "no tensor is called 'label'"), ("latents", "cannot be carried")])
def test_what_cannot_be_carried_is_refused(cli: Cli, write: Write, tmp_path: Path, key: str, words: str) -> None:
    write("a.safetensors", moments=moments_of(), labels=torch.arange(5), latents=torch.zeros(5))
    outcome = cli("sample", "a.safetensors", "-o", "b.safetensors", "--carry", key)
    assert outcome.status == 2
    assert words in outcome.complaint
    assert files_below(tmp_path) == ["a.safetensors"]


# ---- outputs ------------------------------------------------------------------------------------------------------


def test_every_reader_reads_an_output_alike(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of(), labels=torch.arange(5))
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--carry", "labels")
    path = tmp_path / "b.safetensors"
    by_torch, by_numpy = load_file(path), safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "np") as file:
        by_hand = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    assert sorted(by_torch) == sorted(by_numpy) == sorted(by_hand) == ["labels", "latents"]
    for key, tensor in by_torch.items():
        np.testing.assert_array_equal(tensor.numpy(), by_numpy[key])
        np.testing.assert_array_equal(by_hand[key], by_numpy[key])


def parts_of(data: bytes) -> tuple[dict[str, object], list[str], int, bytes]:
    """The header as JSON, the order of its tensors, its length, and the bytes of the tensors."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, [key for key in header if key != "__metadata__"], length, data[8 + length :]


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_an_output_is_what_the_library_would_have_written(cli: Cli, write: Write, tmp_path: Path, dtype: str) -> None:
    write(
        "a.safetensors", moments=moments_of(dtype=dtype), labels=torch.arange(5), z=torch.zeros(3, dtype=torch.uint8),
        a=torch.zeros(3, dtype=torch.bfloat16), b=torch.ones(2, dtype=torch.float64),
        c=torch.zeros(1, dtype=torch.bool),
    )  # fmt: skip
    cli("sample", "a.safetensors", "-o", "b.safetensors", "--carry", "*")
    path = tmp_path / "b.safetensors"
    # The library's order of metadata entries is random; all else is compared to the byte.
    assert parts_of(path.read_bytes()) == parts_of(save(load_file(path), metadata_of(path)))


def test_metadata_says_how_it_was_drawn(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("d/a.safetensors", moments=moments_of())
    cli("sample", "d", "-o", "out", "--seed", 2**64 - 1, "--scaling-factor", 0.5, "--draws", 3)
    metadata = metadata_of(tmp_path / "out/a.safetensors")
    assert metadata["seed"] == str(2**64 - 1)
    assert json.loads(metadata["sources"])["latents"][0]["stream"] == "a.safetensors"
    assert metadata["draws"] == "3"
    assert json.loads(metadata["affine"]) == {"shift": [0.0], "scale": [0.5]}
    assert int(metadata["noise_recipe"]) >= 1
    assert metadata["latentkit_version"]


def test_outputs_have_the_mode_of_new_files(cli: Cli, write: Write, tmp_path: Path) -> None:
    import os

    for number in range(40):
        write(f"d/{number}.safetensors", moments=moments_of(1))
    old = os.umask(0o027)
    try:
        cli("sample", "d", "-o", "out")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "out").iterdir()} == {"0o640"}


def test_overwrite_replaces_and_nothing_else_does(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    cli("sample", "a.safetensors", "-o", "b.safetensors")
    before = (tmp_path / "b.safetensors").read_bytes()
    refused = cli("sample", "a.safetensors", "-o", "b.safetensors", "--seed", 1)
    assert (refused.status, "--overwrite" in refused.complaint) == (2, True)
    assert (tmp_path / "b.safetensors").read_bytes() == before
    assert cli("sample", "a.safetensors", "-o", "b.safetensors", "--seed", 1, "--overwrite").status == 0
    assert (tmp_path / "b.safetensors").read_bytes() != before


def test_an_empty_shard_among_others_is_a_note(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("d/a.safetensors", moments=moments_of())
    write("d/b.safetensors", moments=torch.zeros(0, 4, 3, 4))
    outcome = cli("sample", "d", "-o", "out")
    assert outcome.status == 0
    assert "passed over 1 tensor without samples" in outcome.err
    assert files_below(tmp_path / "out") == ["a.safetensors"]


def test_outputs_below_the_inputs_are_passed_over_by_the_next_run(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("d/a.safetensors", moments=moments_of())
    assert cli("sample", "d", "-o", "d/latents").status == 0
    again = cli("sample", "d", "-o", "again")
    assert again.status == 0
    assert "passed over 1 file that latentkit drew" in again.err
    assert files_below(tmp_path / "again") == ["a.safetensors"]


# ---- what cannot be drawn or held ---------------------------------------------------------------------------------


@pytest.fixture
def broken(write: Write) -> Path:
    moments = moments_of(6)
    moments[2, 0] = float("nan")
    moments[4, 0] = float("inf")
    return write("a.safetensors", moments=moments)


def test_nonfinite_latents_are_counted_by_sample(cli: Cli, broken: Path, tmp_path: Path) -> None:
    outcome = cli("sample", broken, "-o", "b.safetensors")
    assert outcome.status == 0
    assert "2 of 6 samples have NaN or infinite latents" in outcome.err
    assert latents_of(tmp_path / "b.safetensors").isfinite().flatten(1).all(1).tolist() == [1, 1, 0, 1, 0, 1]


def test_on_nonfinite_error_names_the_first_and_leaves_nothing(cli: Cli, broken: Path, tmp_path: Path) -> None:
    outcome = cli("sample", broken, "-o", "b.safetensors", "--on-nonfinite", "error", "--quiet")
    assert outcome.status == 1
    assert "tensor 'moments', sample 2" in outcome.complaint
    assert files_below(tmp_path) == ["a.safetensors"]


def test_nonfinite_samples_in_pieces_are_counted_once(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=torch.full((1, 2, 700, 400), float("nan")))
    assert "1 of 1 sample have NaN" in cli("sample", "a.safetensors", "-o", "b.safetensors").err


def test_latents_too_large_for_the_dtype_are_counted(cli: Cli, write: Write, tmp_path: Path) -> None:
    moments = torch.zeros(2, 2, 1, 1)
    moments[0, 0] = 1e6
    write("a.safetensors", moments=moments)
    outcome = cli("sample", "a.safetensors", "-o", "b.safetensors", "--dtype", "float16")
    assert outcome.status == 0
    assert "1 latent too large" in outcome.err
    assert latents_of(tmp_path / "b.safetensors").flatten().isinf().tolist() == [True, False]


def test_latents_too_large_are_counted_over_every_draw(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=torch.cat([torch.full((1, 1, 1, 1), 1e6), torch.zeros(1, 1, 1, 1)], 1))
    outcome = cli("sample", "a.safetensors", "-o", "b.safetensors", "--dtype", "float16", "--draws", 3)
    assert "3 latents too large" in outcome.err


def test_nan_is_written_with_the_same_bits_everywhere(cli: Cli, write: Write, tmp_path: Path) -> None:
    moments = torch.zeros(1, 2, 1, 1)
    moments.view(torch.int32)[0, 0] = -4 & 0x7FFFFFFF | 0x7FC00001
    write("a.safetensors", moments=moments)
    cli("sample", "a.safetensors", "-o", "b.safetensors")
    assert latents_of(tmp_path / "b.safetensors").view(torch.int32).item() == 0x7FC00000


@pytest.mark.parametrize("path", ["healthy-f32", "healthy-f16", "tokens", "video", "pair", "mean-std"])
def test_the_sample_data_can_be_drawn(cli: Cli, tmp_path: Path, path: str) -> None:
    options = {"tokens": ("--layout", "blc"), "mean-std": ("--parameterization", "std")}.get(path, ())
    assert cli("sample", SAMPLE_DATA / f"{path}.safetensors", "-o", "out.safetensors", *options).status == 0
    assert latents_of(tmp_path / "out.safetensors").isfinite().all()


def test_a_search_passes_over_the_output_below_it(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("d/a.safetensors", moments=moments_of(5))
    options = ("--parameterization", "logvar", "--overwrite")
    assert cli("sample", "d", "-o", "d/out", *options).status == 0
    before = (tmp_path / "d/out/a.safetensors").read_bytes()
    again = cli("sample", "d", "-o", "d/out", *options)
    assert (again.status, "passed over 1 file" in again.err) == (0, True)
    assert files_below(tmp_path / "d") == ["a.safetensors", "out/a.safetensors"]
    assert (tmp_path / "d/out/a.safetensors").read_bytes() == before


def test_the_folder_without_room_is_named_where_it_is_this_one(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    outcome = cli("sample", "a.safetensors", "-o", "z.safetensors", "--draws", 10**15, "-q")
    assert (outcome.status, outcome.complaint.startswith("latentkit: .: the output needs ")) == (1, True)
