"""Caches as twenty tools write them: recognised, read, refused and converted with nothing but their folder."""

import io
import json
import re
import sqlite3
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caches
import numpy as np
import pytest
import torch
from caches import CACHES, floats, npy, npz, safetensors, tensor, torch_file
from conftest import Cli, files_below, moments_of
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import latentkit
from latentkit.read.presets import PRESETS, preset_called


def test_every_preset_has_a_cache() -> None:
    assert {cache.preset for cache in CACHES.values()} == {preset.name for preset in PRESETS}


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_is_what_it_is_with_nothing_but_its_folder(cli: Cli, tmp_path: Path, name: str) -> None:
    cache = CACHES[name]
    cache.write(tmp_path)
    preset = preset_called(cache.preset)
    place = cache.place, *cache.flags
    shown = [{entry["name"] for entry in file["presets"]} for file in cli("info", *place).json["files"]]
    assert any(cache.preset in names for names in shown)
    document = cli("stats", *place).json
    assert document["samples"] == cache.samples
    assert document["parameterization"] == preset.parameterization
    assert all(f"by preset {cache.preset}: {preset.evidence}" in line for line in document["read"])
    out = tmp_path.parent / f"{tmp_path.name}-out"
    for command in (("kl", *place), ("sample", *place, "-o", out)):
        outcome = cli(*command)
        if preset.parameterization == "none":
            assert outcome.status == 2
            assert f"holds drawn latents (preset {cache.preset}: {preset.evidence})" in outcome.complaint
            assert "stats and report read them" in outcome.complaint
            assert "--parameterization" not in outcome.complaint
        else:
            assert outcome.status == 0
            assert f"by preset {cache.preset}: {preset.evidence}" in outcome.err
    if preset.parameterization != "none":
        assert len(cli("kl", *place).rows) == cache.samples
    if cache.told:
        assert f"--preset {cache.preset} ({preset.parameterization})" in cli("stats", cache.place).complaint


@pytest.mark.parametrize("name", CACHES)
def test_python_takes_a_cache_in_as_many_lines(cli: Cli, tmp_path: Path, name: str) -> None:
    cache = CACHES[name]
    cache.write(tmp_path)
    how: Any = {"preset": cache.preset} if cache.told else {}
    assert latentkit.stats(cache.place, **how).summary.samples == cache.samples
    if preset_called(cache.preset).parameterization == "none":
        with pytest.raises(latentkit.RequestError, match="holds latents already drawn"):
            latentkit.kl(cache.place, **how)
    else:
        warnings.simplefilter("ignore")  # of standard deviations read as log-variances
        assert latentkit.kl(cache.place, **how).tolist() == cli("kl", cache.place, *cache.flags).values("kl")
        latents = list(latentkit.LatentDataset(cache.place, **how))
        assert len(latents) == cache.samples


def without_places(figures: Any) -> Any:
    """Figures but for the files in which something was found."""
    if isinstance(figures, list):
        return [without_places(each) for each in figures]
    if not isinstance(figures, dict):
        return figures
    return {name: without_places(each) for name, each in figures.items() if not name.endswith("_at")}


def said_in(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return file.metadata() or {}


@pytest.mark.parametrize("name", CACHES)
def test_what_is_converted_needs_no_flag_and_gives_the_same_bits(cli: Cli, tmp_path: Path, name: str) -> None:
    cache = CACHES[name]
    cache.write(tmp_path / "in")
    place = tmp_path / "in" / cache.place
    outcome = cli("convert", place, "-o", "out", *cache.flags)
    assert (outcome.status, outcome.out) == (0, "")
    assert ", verified" in outcome.err
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    said = [said_in(shard) for shard in shards]
    assert {(each["converted_from"], each["layout"]) for each in said} == {(cache.preset, *cache.layouts)}
    assert {each.get("applied", "nothing") for each in said} == {preset_called(cache.preset).applied}
    if cache.labels is not None:
        assert tuple(load_file(shards[0])["labels"].tolist()) == cache.labels
    entries = [entry for each in said for entry in json.loads(each["names"])]
    for entry in entries if place.is_dir() else ():
        named = entry if isinstance(entry, str) else entry[0]
        assert (place / named).exists() or (place / named).parent.is_file()  # of a file with several tensors
    assert all(" by preset " not in line for line in cli("stats", "out").json["read"])
    figures = [cli("stats", path, *flags).json for path, flags in ((place, cache.flags), ("out", ()))]
    for figure in ("parameterization", "samples", "overall", "per_channel", "normalization"):
        assert without_places(figures[0][figure]) == without_places(figures[1][figure])
    if figures[0]["parameterization"] == "none":
        assert "holds drawn latents" in cli("kl", "out").complaint
    else:
        values = [cli("kl", path, *flags).values("kl") for path, flags in ((place, cache.flags), ("out", ()))]
        assert values[0] == values[1]
        assert len(values[0]) == cache.samples


def test_info_says_what_tensors_are_read_as_and_why_once(cli: Cli, tmp_path: Path) -> None:
    caches.lightningdit(tmp_path / "latents")
    caches.edm2(tmp_path / "moments")
    for folder, preset, why in (
        ("latents", "lightningdit", "latents beside latents_flip"),
        ("moments", "edm2", "img-mean-std-….npy"),
    ):
        shown = " ".join(cli("info", folder, "--format", "table").out.split())
        assert f", by preset {preset}: {why} written as by" in shown
        assert f"512 {folder} " in shown


def test_labels_of_images_go_for_their_mirrors_too(cli: Cli, tmp_path: Path) -> None:
    caches.mar(tmp_path / "mar")
    refused = cli("kl", "mar", "--columns", "labels", "-q").complaint
    assert "of labels in the folder's name latentkit convert makes a tensor" in refused
    assert cli("convert", "mar", "-o", "all.safetensors").status == 0
    rows = cli("kl", "all.safetensors", "--columns", "labels").rows
    assert [row["labels"] for row in rows] == ["0", "0", "0", "0", "1", "1"]
    odd = cli("kl", "all.safetensors", "--columns", "labels", "--every", "2", "--limit", "2").rows
    assert [(row["index"], row["labels"]) for row in odd] == [("0", "0"), ("2", "0")]
    groups = cli("stats", "all.safetensors", "--by", "labels").json["groups"]
    assert [(group["label"], group["samples"]) for group in groups["labels"]] == [(0, 4), (1, 2)]
    assert latentkit.LatentDataset("all.safetensors", columns=["labels"])[5][1] == 1


# ---- what is no cache of latents ----------------------------------------------------------------------------------


def pickled(root: Path) -> None:
    held = np.empty(2, dtype=object)
    held[0], held[1] = floats(8, 4, 4), 3
    npy(root / "imagenet256_features/0.npy", held)


def fine_tuning(root: Path) -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    held = {"latent_image_distribution": DiagonalGaussianDistribution(tensor(1, 8, 4, 4)), "image": tensor(3, 32, 32)}
    torch_file(root / "image/a/variation-0/0.pt", held)


def with_frames(root: Path) -> None:
    shared = {"input_latents": tensor(1, 16, 2, 4, 4), "input_video": [Image.new("RGB", (4, 4))]}
    torch_file(root / "0/0.pth", (shared, {}, {}))


def zipped(root: Path) -> None:
    import gzip

    stream = io.BytesIO()
    torch.save(tensor(4, 4, 4), stream)
    (root / "a.pt").write_bytes(gzip.compress(stream.getvalue()))


def pixels(root: Path) -> None:
    said = {"filename": "a.png", "latent_space_version": "pixel"}
    safetensors(root / "_latent_cache/a_b.safetensors", said, latent=torch.zeros(3, 8, 8, dtype=torch.uint8))


def tokens(root: Path) -> None:
    npy(root / "0/000000000000.npy", np.arange(64).reshape(4, 16))
    (root / "0/000000000000.json").write_text("{}")


def tokens_of_pixels(root: Path) -> None:
    said = {"architecture": "hidream_o1", "format_version": "1.0.1"}
    safetensors(root / "a_0032x0032_ho1.safetensors", said, latents_1x4x6_float32=tensor(4, 6, 48))


def musubi_text(root: Path) -> None:
    said = {"architecture": "hunyuan_video", "caption1": "a cat", "format_version": "1.0.1"}
    held = {"llm_bfloat16": tensor(9, 64).bfloat16(), "llm_mask": torch.ones(9), "clipL_bfloat16": tensor(64)}
    safetensors(root / "a_hv_te.safetensors", said, **held)


def sd_text(root: Path) -> None:
    npz(root / "a_te_outputs.npz", hidden_state1=floats(77, 768), hidden_state2=floats(77, 1280), pool2=floats(1280))


def cogvideo_text(root: Path) -> None:
    safetensors(root / "prompt_embeddings/ab.safetensors", prompt_embedding=tensor(226, 64))


def onetrainer_text(root: Path) -> None:
    torch_file(root / "text/a/variation-0/0.pt", {"tokens": torch.arange(77), "text_encoder_hidden": tensor(77, 64)})


def turned(root: Path) -> None:
    torch_file(root / "0.pt", {"latent_image": tensor(4, 8, 8).transpose(1, 2)})


#: What tools write too, and what is said of it: words of the one sentence.
OTHERS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "U-ViT ImageNet": (pickled, ("0.npy: holds pickled objects", "save the arrays alone")),
    "OneTrainer, VAE training": (fine_tuning, ("DiagonalGaussianDistribution, which only its own program can load",)),
    "DiffSynth with frames": (with_frames, ("holds PIL.Image", "save these alone")),
    "SimpleTuner, compressed": (zipped, ("compressed with gzip", "gunzip < FILE")),
    "ai-toolkit, pixels": (pixels, ("no floating-point tensor", "'latent' U8 [3, 8, 8]")),
    "stable-audio-tools, tokens": (tokens, ("no floating-point tensor", "I64 [4, 16]")),
    "musubi-tuner, HiDream": (tokens_of_pixels, ("'latents_1x4x6_float32' holds drawn latents (its name says so)",)),
    "musubi-tuner, texts": (musubi_text, ("holds features of texts (its name says so)", "'llm_bfloat16' BF16 [9, 64]")),
    "sd-scripts, texts": (sd_text, ("holds features of texts",)),
    "CogVideo, texts": (cogvideo_text, ("holds features of texts",)),
    "OneTrainer, texts": (onetrainer_text, ("holds features of texts",)),
    "U-ViT, texts": (lambda root: npy(root / "train/7_0.npy", floats(77, 768)), ("holds features of texts",)),
    "U-ViT, no text": (lambda root: npy(root / "empty_context.npy", floats(77, 768)), ("holds features of texts",)),
    "LightningDiT, statistics": (
        lambda root: torch_file(root / "latents_stats.pt", {"mean": tensor(1, 8, 1, 1), "std": tensor(1, 8, 1, 1)}),
        ("holds statistics of latents",),
    ),
    "not in order": (turned, ("F32 (strided)", "save its .contiguous()")),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_cache_of_latents_says_what_it_is(cli: Cli, tmp_path: Path, name: str) -> None:
    write, words = OTHERS[name]
    write(tmp_path)
    before = files_below(tmp_path)
    for command in (("kl", "."), ("stats", "."), ("sample", ".", "-o", "out"), ("convert", ".", "-o", "out")):
        outcome = cli(*command)
        assert outcome.status in (1, 2)
        assert all(word in outcome.complaint for word in words), outcome.err
    assert files_below(tmp_path) == before
    info = cli("info", ".")
    problem = info.err if info.status else info.json["files"][0]["problem"]
    assert all(word in problem for word in words)


def test_text_features_are_read_where_they_are_named(cli: Cli, tmp_path: Path) -> None:
    cogvideo_text(tmp_path)
    assert len(cli("kl", ".", "--key", "prompt_embedding").rows) == 226


def test_a_search_passes_over_text_features_beside_moments(cli: Cli, tmp_path: Path) -> None:
    safetensors(tmp_path / "d/a.safetensors", moments=moments_of())
    cogvideo_text(tmp_path / "d")
    outcome = cli("kl", "d")
    assert [row["file"] for row in outcome.rows] == ["d/a.safetensors"] * 5
    assert "passed over 1 file of other things, such as d/prompt_embeddings" in outcome.err
    # What is unclear beside them is still to be said.
    safetensors(tmp_path / "d/b.safetensors", x=moments_of(), y=moments_of())
    assert "d/b.safetensors: cannot tell which tensor" in cli("kl", "d", "-q").complaint


def test_what_is_beside_text_features_in_a_file_is_found(cli: Cli, tmp_path: Path) -> None:
    safetensors(tmp_path / "a.safetensors", z=moments_of(), prompt_embedding=tensor(226, 64))
    assert [row["tensor"] for row in cli("kl", ".").rows] == ["z"] * 5


def test_statistics_of_lightningdit_normalize_as_its_loader_does(cli: Cli, tmp_path: Path) -> None:
    mean, std = tensor(1, 2, 1, 1), tensor(1, 2, 1, 1).abs() + 0.5
    torch_file(tmp_path / "latents_stats.pt", {"mean": mean, "std": std})
    safetensors(tmp_path / "a.safetensors", moments=moments_of(6))
    assert cli("sample", "a.safetensors", "-o", "raw.safetensors").status == 0
    given = "--normalization", "latents_stats.pt", "--scaling-factor", "0.5"
    assert cli("sample", "a.safetensors", "-o", "out.safetensors", *given).status == 0
    raw, out = (load_file(tmp_path / f"{name}.safetensors")["latents"] for name in ("raw", "out"))
    assert torch.allclose(out, (raw - mean) / std * 0.5, rtol=1e-5, atol=1e-6)
    torch_file(tmp_path / "other.pt", {"mean": mean})
    given = "--normalization", "other.pt"
    assert (
        "no normalization: statistics" in cli("sample", "a.safetensors", "-o", "b.safetensors", *given, "-q").complaint
    )


def test_what_is_left_out_is_said(cli: Cli, tmp_path: Path) -> None:
    caches.sd_scripts(tmp_path / "in")
    left = "left out: alpha_mask, crop_ltrb, latents_flipped, original_size; --carry KEY copies them"
    assert left in cli("convert", "in", "-o", "out").err
    carried = cli("convert", "in", "-o", "all", "--carry", "*")
    assert "left out" not in carried.err
    assert "latents_flipped" in load_file(tmp_path / "all/latents-00001-of-00002.safetensors")


# ---- traps --------------------------------------------------------------------------------------------------------


def test_edm2_and_repa_give_the_same_numbers_for_the_same_file(cli: Cli, tmp_path: Path) -> None:
    """Their pixels differ, which no file says; how it is read does not, so there is nothing to ask."""
    caches.repa(tmp_path)
    fits = [preset["name"] for preset in cli("info", ".").json["files"][0]["presets"]]
    assert fits == ["repa", "edm2"]
    kl = [cli("kl", ".", "--preset", name).values("kl") for name in fits]
    assert kl[0] == kl[1] == cli("kl", ".").values("kl")


def test_where_the_numbers_differ_the_flag_is_asked_for(cli: Cli, tmp_path: Path) -> None:
    caches.arrays(tmp_path)
    for command in (("kl", "."), ("stats", "."), ("sample", ".", "-o", "out"), ("convert", ".", "-o", "out")):
        outcome = cli(*command)
        assert outcome.status == 2
        assert "--preset array-std (std) or --preset array-logvar (logvar)" in outcome.complaint
    std, logvar = (cli("kl", ".", "--preset", f"array-{kind}") for kind in ("std", "logvar"))
    assert std.values("kl") != logvar.values("kl")
    # None of these is below 0, as no log-variances are.
    assert "no log-variance is below 0" in logvar.err
    assert "no log-variance" not in std.err


@pytest.mark.parametrize("command", [("kl",), ("stats",), ("sample", "-o", "out"), ("convert", "-o", "out")])
def test_a_preset_that_the_data_contradicts_gives_nothing(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    for i in range(3):
        npy(tmp_path / f"00000/img-mean-std-0000000{i}.npy", floats(8, 4, 4))
    before = files_below(tmp_path)
    outcome = cli(*command, ".", "--quiet")
    assert (outcome.status, "negative" in outcome.complaint) == (1, True)
    assert files_below(tmp_path) == before


def test_stored_log_variances_are_clamped_as_their_readers_do(cli: Cli, tmp_path: Path) -> None:
    caches.mar(tmp_path)
    ours = cli("kl", ".").values("kl")
    moments = [torch.from_numpy(np.load(tmp_path / row["file"])[row["tensor"]])[None] for row in cli("kl", ".").rows]
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    theirs = [DiagonalGaussianDistribution(each).kl().item() for each in moments]
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_what_is_called_latents_in_diffsynth_is_noise_and_not_read(cli: Cli, tmp_path: Path) -> None:
    caches.diffsynth(tmp_path)
    assert [line.split(":")[0] for line in cli("stats", ".").json["read"]] == ["0.input_latents"]


def test_musubi_reads_its_target_and_no_control(cli: Cli, tmp_path: Path) -> None:
    caches.musubi(tmp_path)
    (line,) = cli("stats", ".").json["read"]
    assert line.startswith("latents_2x4x4_bfloat16: 16 channels of latents, cthw")


def test_labels_of_fast_dit_stay_beside_their_features_in_order_of_text(cli: Cli, tmp_path: Path) -> None:
    caches.fast_dit(tmp_path)
    assert cli("convert", "imagenet256_features", "-o", "all.safetensors").status == 0
    names = json.loads(said_in(tmp_path / "all.safetensors")["names"])
    assert [name if isinstance(name, str) else name[0] for name in names] == ["0.npy", "10.npy", "2.npy"]
    assert load_file(tmp_path / "all.safetensors")["labels"].tolist() == [7, 17, 9]


def test_features_in_a_folder_of_another_name_are_asked_about(cli: Cli, tmp_path: Path) -> None:
    caches.one_image_arrays(tmp_path, 1, 4, 4, 4)
    assert "--preset array-one (none), or what its second half is with --parameterization" in cli("kl", ".").complaint
    assert len(cli("kl", ".", "--parameterization", "logvar").rows) == 3


def test_the_recipe_for_diffusion_pipe_works(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shards are many files of torch end to end; the guide cuts them apart."""
    folder = tmp_path / "cache/latents"
    folder.mkdir(parents=True)
    database = sqlite3.connect(folder / "metadata.db")
    database.execute("create table items (shard integer, shard_index integer)")
    database.execute("create table shard_0 (offset integer, size integer)")
    with (folder / "shard_0.bin").open("wb") as file:
        for i in range(3):
            stream = io.BytesIO()
            torch.save({"latents": tensor(16, 4, 4).bfloat16(), "mask": None, "caption": "a cat"}, stream)
            database.execute("insert into items values (0, ?)", [i])
            database.execute("insert into shard_0 values (?, ?)", [file.tell(), stream.tell()])
            file.write(stream.getvalue())
    database.commit()
    database.close()
    assert "of diffusion-pipe: see latentkit guide caches" in cli("info", folder / "shard_0.bin").complaint
    guide = (Path(caches.__file__).parent.parent / "latentkit/guide/caches.md").read_text()
    (recipe,) = re.findall(r"```python\n(# diffusion-pipe.*?)```", guide, re.DOTALL)
    monkeypatch.chdir(folder)
    exec(compile(recipe, "caches.md", "exec"), {})
    monkeypatch.chdir(tmp_path)
    flags = "--key", "latents", "--layout", "chw", "--parameterization", "none"
    assert cli("stats", folder / "unpacked", *flags).json["samples"] == 3


# ---- factors ------------------------------------------------------------------------------------------------------


def test_what_sample_scales_by_the_moments_metadata_nll_undoes_by_it(cli: Cli, tmp_path: Path) -> None:
    said: Any = {"scaling_factor": "0.5", "shift_factor": "0.25"}
    moments, raw = moments_of(6), moments_of(6, seed=1)[:, :2].contiguous()
    safetensors(tmp_path / "a.safetensors", said, moments=moments)
    safetensors(tmp_path / "raw.safetensors", latents=raw)
    safetensors(tmp_path / "scaled.safetensors", latents=(raw - 0.25) * 0.5)
    exact = cli("nll", "a.safetensors", "--latents", "raw.safetensors", "--scaling-factor", "1")
    assert "metadata" not in exact.err
    outcome = cli("nll", "a.safetensors", "--latents", "scaled.safetensors")
    assert "scaling factor 0.5, shift factor 0.25, by the metadata of the moments" in outcome.err
    assert outcome.values("nll") == pytest.approx(exact.values("nll"), rel=1e-5)
    # Latents that say so themselves go before it.
    assert cli("sample", "a.safetensors", "-o", "drawn.safetensors", "--scaling-factor", "3").status == 0
    assert cli("sample", "a.safetensors", "-o", "usual.safetensors", "--scaling-factor", "1").status == 0
    ours = [cli("nll", "a.safetensors", "--latents", f"{name}.safetensors") for name in ("drawn", "usual")]
    assert ours[0].values("nll") == pytest.approx(ours[1].values("nll"), rel=1e-4)
    assert not any("metadata of the moments" in outcome.err for outcome in ours)


def test_python_undoes_what_python_scaled(tmp_path: Path) -> None:
    import latentkit

    safetensors(tmp_path / "a.safetensors", {"scaling_factor": "0.5"}, moments=moments_of(6))
    safetensors(tmp_path / "b.safetensors", moments=moments_of(6))
    noise = {"relative_to": str(tmp_path)}
    a, b = (str(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    scaled = latentkit.sample(a, **noise)
    plain = latentkit.sample(a, scaling_factor=1, **noise)
    assert np.array_equal(scaled, plain * np.float32(0.5))
    assert latentkit.nll(a, scaled) == pytest.approx(latentkit.nll(b, plain), rel=1e-6)
