"""A few thousand cases of ``fuzz.py`` each time; its script runs a million."""

import pytest
from fuzz import KINDS, fuzz

CASES = dict.fromkeys(KINDS, 300) | {"safetensors": 4000, "array": 2000}


@pytest.mark.parametrize("kind", KINDS)
def test_cases_end_as_they_should(kind: str) -> None:
    ends = fuzz(CASES[kind], 0, [kind])
    # Neither all refused nor all read: both ways are tried.
    assert len(ends) > 1, ends


def test_cases_are_made_of_their_seed_alone() -> None:
    assert fuzz(300, 3, ["safetensors", "glob"]) == fuzz(300, 3, ["safetensors", "glob"])
