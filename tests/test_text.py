"""Names and numbers in words: harmless, and right to the digits that are shown."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from latentkit.text import DASH, count_of, fixed, harmless, number, sentence

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.text())
def test_what_is_shown_is_printable_and_printable_text_stays_as_it_is(text: str) -> None:
    assert harmless(text).isprintable()
    if text.isprintable():
        assert harmless(text) == text


def test_what_could_trick_a_reader_is_spelled_out() -> None:
    assert harmless("a\x1b[2J\u202egnp.exe\n\ud800") == r"a\x1b[2J\u202egnp.exe\n\ud800"


@given(FLOATS, st.integers(1, 8))
def test_a_number_is_shown_to_so_many_digits(value: float, digits: int) -> None:
    shown = number(value, digits)
    if value == 0:
        assert shown == "0"
        return
    rounded = Decimal(f"{value:.{digits - 1}e}")
    assert abs(Decimal(shown.replace(",", "")) - rounded) <= (0 if abs(rounded) < 10**digits else Decimal(10**8))
    assert ("e" in shown) == (not 1e-6 <= abs(value) < 1e8)
    assert not shown.endswith(".")


@given(FLOATS, st.integers(0, 6))
def test_a_zero_has_no_sign_however_it_came_about(value: float, decimals: int) -> None:
    shown = fixed(value, decimals)
    assert Decimal(shown.replace(",", "")) == Decimal(f"{value:.{decimals}f}")
    assert not shown.startswith("-") or Decimal(shown.replace(",", "")) < 0


def test_what_is_undefined_is_a_dash_and_infinity_a_word() -> None:
    assert number(float("nan")) == fixed(float("nan"), 2) == DASH
    assert (number(float("inf")), number(float("-inf"))) == ("inf", "-inf")


def test_one_is_no_plural() -> None:
    assert [count_of(count, "sample") for count in (0, 1, 2000)] == ["0 samples", "1 sample", "2,000 samples"]


@given(st.text())
def test_a_sentence_is_printable_and_short(text: str) -> None:
    assert sentence(text).isprintable()
    assert len(sentence(text * 1000)) <= 600


def test_a_sentence_keeps_both_ends_of_long_names_and_all_that_is_said_of_them() -> None:
    said = sentence(f"/data/{'x' * 10_000}/a.safetensors: tensor '{'k' * 10_000}' is I64; choose with --key")
    assert said.startswith("/data/xxx")
    assert "/a.safetensors: tensor 'kkk" in said
    assert said.endswith("kkk' is I64; choose with --key")


def test_names_of_a_usual_length_stay_whole() -> None:
    words = f"/{'/'.join(['a' * 20] * 10)}: no such file or folder"
    assert sentence(words) == words
