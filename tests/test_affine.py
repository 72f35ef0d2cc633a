"""The shift and scale of latents: one type, whatever it was made from."""

import json
import math
from pathlib import Path

import pytest

from latentkit.errors import DataError, RequestError
from latentkit.posterior.affine import IDENTITY, Affine, from_factors, from_json, from_normalization


def applied(affine: Affine, z: float, channel: int = 0) -> float:
    shift, scale = (values[channel % len(values)] for values in (affine.shift, affine.scale))
    return (z - shift) * scale


def test_factors_shift_and_then_scale() -> None:
    assert applied(from_factors(0.5, 3), 7) == 2


def test_factors_left_out_change_nothing() -> None:
    assert from_factors(None, None) == IDENTITY
    assert IDENTITY.is_identity


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["scaling_factor", "shift_factor"])
def test_factors_that_are_not_finite_are_refused(name: str, value: float) -> None:
    factors: dict[str, float | None] = {"scaling_factor": None, "shift_factor": None, name: value}
    with pytest.raises(RequestError, match=f"--{name.replace('_', '-')}"):
        from_factors(**factors)


def test_a_scale_of_zero_is_refused() -> None:
    with pytest.raises(RequestError, match="other than 0"):
        from_factors(0, None)


@pytest.mark.parametrize("second", [Affine((2.0,), (8.0,)), Affine((1.0, 2.0), (0.5, 4.0))])
@pytest.mark.parametrize("first", [IDENTITY, Affine((1.0,), (0.25,)), Affine((1.0, -3.0), (0.25, 2.0))])
def test_then_is_one_map_after_the_other(first: Affine, second: Affine) -> None:
    both = first.then(second)
    for channel in (0, 1):
        assert applied(both, 5, channel) == applied(second, applied(first, 5, channel), channel)


@pytest.mark.parametrize("affine", [IDENTITY, Affine((0.1 + 0.2,), (1 / 3,)), Affine((1.0, 2.0, 3.0), (0.5,))])
def test_json_holds_every_bit(affine: Affine) -> None:
    assert from_json(affine.to_json(), "here") == affine


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"shift": [0]}',
        '{"shift": 0, "scale": 1}',
        '{"shift": "12", "scale": [1]}',
        '{"shift": {"0": 1}, "scale": [1]}',
        '{"shift": ["a"], "scale": [1]}',
        '{"shift": [[1]], "scale": [1]}',
        '{"shift": [null], "scale": [1]}',
        '{"shift": [1e999], "scale": [1]}',
        '{"shift": [0], "scale": [0]}',
        '{"shift": [0], "scale": []}',
        '{"shift": [0, 0], "scale": [1, 1, 1]}',
        '{"shift": [1' + "0" * 400 + '], "scale": [1]}',
        "[" * 100_000,
    ],
)
def test_what_cannot_be_undone_is_an_error_that_says_where(text: str) -> None:
    with pytest.raises(DataError, match=r"^here: its affine is not"):
        from_json(text, "here")


def normalization(tmp_path: Path, content: str) -> str:
    path = tmp_path / "n.json"
    path.write_text(content)
    return str(path)


def test_a_normalization_file_is_mean_and_std_a_channel(tmp_path: Path) -> None:
    content = json.dumps({"latents_mean": [1, 2], "latents_std": [4, 8], "more": "ignored"})
    affine = from_normalization(normalization(tmp_path, content))
    assert affine == Affine((1.0, 2.0), (0.25, 0.125))
    assert affine.channels() == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"latents_mean": [1]}',
        '{"latents_mean": 1, "latents_std": 2}',
        '{"latents_mean": "1", "latents_std": "2"}',
        '{"latents_mean": [], "latents_std": []}',
        '{"latents_mean": [1, 2], "latents_std": [1]}',
        '{"latents_mean": [NaN], "latents_std": [1]}',
        '{"latents_mean": [0], "latents_std": [0]}',
        '{"latents_mean": [0], "latents_std": [-1]}',
        '{"latents_mean": [0], "latents_std": [5e-324]}',
        '{"latents_mean": [0], "latents_std": [Infinity]}',
        "[" * 100_000,
        '{"latents_mean": [1' + "0" * 400 + '], "latents_std": [1]}',
    ],
)
def test_a_file_that_is_no_normalization_is_refused_by_name(tmp_path: Path, content: str) -> None:
    with pytest.raises(RequestError, match=r"n\.json"):
        from_normalization(normalization(tmp_path, content))
