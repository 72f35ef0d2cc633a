"""What ``stats`` wrote earlier as the other side of a comparison: it gives what its files give, or a sentence."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SAMPLE_DATA, Cli, moments_of

import latentkit
from latentkit.errors import DataError
from latentkit.health.document import differences, plain
from latentkit.health.kept import kept
from latentkit.posterior.parameterization import DEFAULT_CLAMP

Write = Callable[..., Path]

OURS, HEALTHY = SAMPLE_DATA / "collapsed.safetensors", SAMPLE_DATA / "healthy-f32.safetensors"
EXTRAS = ("--with", "correlation", "--with", "spectrum")


@pytest.mark.parametrize("form", ["base.json", "base.state"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("healthy-f32", ()),
        ("healthy-f32", EXTRAS),
        ("shards", ()),
        ("tokens", EXTRAS),
        ("synthetic-clamp", ()),
        ("latents", ("--parameterization", "none")),
        ("video", (*EXTRAS, "--clamp-min", "-20")),
    ],
)
def test_what_was_kept_gives_what_its_files_give(cli: Cli, form: str, name: str, options: tuple[str, ...]) -> None:
    there = SAMPLE_DATA / (name if name == "shards" else f"{name}.safetensors")
    ours = SAMPLE_DATA / "latents.safetensors" if name == "latents" else OURS
    keep = ("--state", form, "-o", "a.json") if form == "base.state" else ("-o", form)
    assert cli("stats", there, *options, *keep, "-q").status == 0
    both, kept_there = (cli("stats", ours, *options, "--against", one) for one in (there, form))
    assert (kept_there.status, kept_there.out) == (0, both.out)
    assert kept_there.json["against"]["summary"]["samples"] > 0


def test_a_document_has_all_that_a_condition_asks_of_the_other(cli: Cli) -> None:
    assert cli("stats", HEALTHY, *EXTRAS, "-o", "base.json").status == 0
    asked = ["kl.p99.change", "logvar.p1.difference", "findings.difference", "effective_rank.change", "kl.max.change"]
    asked += ["kl.min.difference", "high_frequency_power.change", "differences", "mean.p50.difference"]
    conditions = [part for name in asked for part in ("--fail-if", f"{name} > -1e9")]
    said = [cli("stats", OURS, *EXTRAS, "-q", "--against", one, *conditions) for one in (HEALTHY, "base.json")]
    assert said[0].err == said[1].err and said[0].status == said[1].status == 3
    assert said[1].err.count(" is ") == len(asked) and "undefined" not in said[1].err


def test_what_a_document_was_made_without_is_said_and_turns_nothing_green(cli: Cli) -> None:
    assert cli("stats", HEALTHY, "-o", "base.json").status == 0
    outcome = cli("stats", OURS, *EXTRAS, "--against", "base.json", "--fail-if", "effective_rank.change > 1e9")
    assert outcome.status == 3 and "effective_rank.change is undefined (there, " in outcome.err
    assert "latentkit: base.json was made without --with correlation: that is not compared\n" in outcome.err


def test_merged_states_are_compared_with_what_was_kept(cli: Cli) -> None:
    assert cli("stats", OURS, "--state", "ours.state").status == 0
    assert cli("stats", HEALTHY, "-o", "base.json").status == 0
    outcome = cli("stats", "--merge", "ours.state", "--against", "base.json", "--fail-if", "kl_element.change < 0")
    assert outcome.status == 3
    assert outcome.json["against"] == cli("stats", OURS, "--against", "base.json").json["against"]
    assert cli("stats", "--merge", "ours.state", "--against", HEALTHY).status == 2


def test_a_report_sets_kept_figures_beside(cli: Cli) -> None:
    pytest.importorskip("matplotlib")
    assert cli("stats", HEALTHY, "-o", "base.json").status == 0
    assert cli("report", OURS, "--against", "base.json", "-o", "r.html").status == 0
    page = Path("r.html").read_text()
    assert "Differences of more than a tenth" in page and "Beside the other encoder: base.json" in page
    # Of its samples a document knows the quantiles alone.
    assert "KL of the samples</figcaption>" in page and "Channels by KL; the other encoder" in page


def test_python_takes_what_was_kept(cli: Cli, tmp_path: Path) -> None:
    assert cli("stats", HEALTHY, "-o", "base.json").status == 0
    ours = latentkit.stats(OURS, against=tmp_path / "base.json")
    assert ours.to_dict() == cli("stats", OURS, "--against", "base.json").json
    assert list(ours.held("kl_element.change < -5%", "differences < 1")) == ["kl_element.change < -5%"]
    for text in ("effective_rank > 1", "kl_men > 1", "effective_rank.change > 1"):
        with pytest.raises(latentkit.LatentkitError):
            ours.held(text)
    with pytest.raises(latentkit.LatentkitError, match="takes --against"):
        latentkit.stats(OURS).held("differences > 1")


def changed(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda document: json.dumps(document | changes)


REFUSED = {
    "not JSON": (lambda _: "no JSON", 1, "not JSON, or not all of it"),
    "cut": (lambda document: json.dumps(document)[:500], 1, "not JSON, or not all of it"),
    "no text": (lambda _: b"\xff\xfe\x00", 1, "not JSON"),
    "empty": (lambda _: "", 1, "not JSON"),
    "deep": (lambda _: "[" * 100_000, 1, "not JSON"),
    "a number": (lambda _: "3", 1, "not a document of stats; write one with stats FILES -o FILE.json"),
    "another program's": (lambda _: '{"schema": 3}', 1, "not a document of stats"),
    "of kl": (lambda _: '{"measure": "kl", "rows": []}', 1, "not a document of stats"),
    "another version": (changed(schema="latentkit.stats/9"), 1, "its schema is latentkit.stats/9, and this latentkit"),
    "no channels": (changed(per_channel=[]), 1, "damaged"),
    "no samples": (changed(samples=0), 1, "damaged"),
    "texts for figures": (changed(overall="much"), 1, "damaged"),
    "other levels": (changed(quantile_levels=[0.5]), 1, "damaged"),
    "another clamp": (changed(clamp=[-20.0, 20.0]), 2, "made with a clamp of [-20, 20], and here it is [-30, 20]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_a_sentence(cli: Cli, document: dict[str, Any], case: str) -> None:
    make, status, sentence = REFUSED[case]
    data = make(document)
    Path("base.json").write_bytes(data if isinstance(data, bytes) else data.encode())
    outcome = cli("stats", OURS, "--against", "base.json")
    assert outcome.status == status and outcome.complaint.startswith("latentkit: base.json: ")
    assert sentence in outcome.complaint


def test_one_that_is_not_there_or_is_to_be_replaced_is_refused(cli: Cli) -> None:
    assert cli("stats", OURS, "--against", "nosuch.json").status == 2
    assert cli("stats", HEALTHY, "-o", "base.json").status == 0
    before = Path("base.json").read_bytes()
    outcome = cli("stats", OURS, "--against", "base.json", "-o", "base.json", "--overwrite")
    assert outcome.status == 2 and "is an input itself" in outcome.complaint
    assert Path("base.json").read_bytes() == before


def test_an_index_is_no_document(cli: Cli, write: Write) -> None:
    write("part.safetensors", moments=moments_of(9, 4))
    Path("x.safetensors.index.json").write_text(json.dumps({"weight_map": {"moments": "part.safetensors"}}))
    assert cli("stats", OURS, "--against", "x.safetensors.index.json").json["against"]["summary"]["samples"] == 9


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    moments = moments_of(30, 3)
    moments[3, 4, 0, 0], moments[4, 0, 1, 1] = torch.inf, torch.nan
    found = latentkit.stats(moments, extras=["correlation", "spectrum", "shape", "duplicates"])
    assert found.findings
    return found.to_dict()


def test_a_damaged_document_is_an_error_or_comes_through(document: dict[str, Any], tmp_path: Path) -> None:
    """Each member in turn is gone, or something else: never another exception."""
    rng, base = random.Random(0), tmp_path / "base.json"
    base.write_text(json.dumps(document))
    ours = kept(str(base), DEFAULT_CLAMP)
    refused = 0
    for where in rng.sample(list(places(document)), 400):
        damaged = copy.deepcopy(document)
        part = damaged
        for step in where[:-1]:
            part = part[step]
        if rng.random() < 0.3:
            del part[where[-1]]
        else:
            part[where[-1]] = rng.choice([None, -1, "x", [], {}, True, 1e308, [1, "x"], {"schema": 3}])
        base.write_text(json.dumps(damaged))
        try:
            other = kept(str(base), DEFAULT_CLAMP)
        except (DataError, latentkit.LatentkitError):
            refused += 1
        else:
            plain(differences(ours.summary, other.summary))
    assert refused > 200


def places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in members:
        yield (*where, name)
        yield from places(part, (*where, name))
