"""Write golden_samples.json: what ``latentkit sample`` has to write for sample_data, by the second implementation.

Imports nothing from latentkit and no torch: the files are read by hand, the latents drawn by noise_reference.py.
Run it again only for a new noise recipe.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import noise_reference as reference
import numpy as np
from numpy.typing import NDArray

SAMPLE_DATA = Path(__file__).parent.parent / "sample_data"
GOLDEN = Path(__file__).with_name("golden_samples.json")
STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
NORMALIZATION = {"latents_mean": [0.5, -0.25, 1.0, 0.125], "latents_std": [0.3, 2.0, 1.0, 0.7]}

#: An input (a file or a folder), and options by the name of their flags.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("healthy-f32.safetensors", {}),
    ("healthy-f16.safetensors", {"seed": 7}),
    ("healthy-bf16.safetensors", {"seed": 2**64 - 1, "draws": 3}),
    ("healthy-f16.safetensors", {"seed": 1, "temperature": 0.7, "dtype": "float32", "limit": 100}),
    ("healthy-f32.safetensors", {"dtype": "bfloat16", "draws": 1}),
    ("healthy-bf16.safetensors", {"scaling-factor": 0.18215, "shift-factor": 0.0609, "dtype": "float16"}),
    ("healthy-f16.safetensors", {"normalization": NORMALIZATION}),
    ("healthy-f32.safetensors", {"normalization": NORMALIZATION, "scaling-factor": 1.5, "shift-factor": -0.25}),
    ("healthy-f32.safetensors", {"stream": "é/a.safetensors", "clamp-min": -5.5, "clamp-max": -2.25}),
    ("healthy-f16.safetensors", {"mode": True, "scaling-factor": 0.3611}),
    ("collapsed.safetensors", {"seed": 3, "temperature": 0.0}),
    ("deterministic.safetensors", {"seed": 3}),
    ("synthetic-clamp.safetensors", {"seed": 5}),
    ("synthetic-clamp.safetensors", {"dtype": "float16", "scaling-factor": 3.0, "temperature": 1.25}),
    ("mean-std.safetensors", {"parameterization": "std", "draws": 2}),
    ("pair.safetensors", {"seed": 11}),
    ("tokens.safetensors", {"layout": "blc", "seed": 12}),
    ("tokens.safetensors", {"layout": "blc", "normalization": {k: v * 2 for k, v in NORMALIZATION.items()}}),
    ("video.safetensors", {"seed": 13, "draws": 2}),
    ("shards", {"seed": 14}),
    ("per-image", {"layout": "chw", "seed": 15}),
]


def read(path: Path) -> dict[str, tuple[str, NDArray[np.generic]]]:
    """Every tensor of a safetensors file, with its dtype."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    header.pop("__metadata__", None)
    tensors = {}
    for key, entry in header.items():
        if entry["dtype"] in STORED:
            values = np.frombuffer(body[slice(*entry["data_offsets"])], STORED[entry["dtype"]])
            tensors[key] = entry["dtype"], values.reshape(entry["shape"])
    return tensors


def affine(options: dict[str, Any], channels_first: tuple[int, ...]) -> tuple[Any, Any]:
    """Shift and scale, in float64, a value per channel where there is a normalization."""
    shift, scale = options.get("shift-factor", 0.0), options.get("scaling-factor", 1.0)
    if "normalization" in options:
        mean = np.array(options["normalization"]["latents_mean"]).reshape(channels_first)
        first = 1 / np.array(options["normalization"]["latents_std"]).reshape(channels_first)
        shift, scale = mean + shift / first, first * scale
    return shift, scale


def latents(name: str, path: Path, options: dict[str, Any]) -> NDArray[np.generic]:
    """The latents of one input file, draws first if there are any."""
    tensors = read(path)
    layout = options.get("layout") or {4: "bchw", 5: "bcthw"}[next(iter(tensors.values()))[1].ndim]
    axis = layout.index("c")
    if "moments" in tensors:
        key, (dtype, moments) = "moments", tensors["moments"]
        mean, spread = np.split(moments, 2, axis=axis)
    else:
        key, (dtype, mean), (_, spread) = "mean", tensors["mean"], tensors["logvar"]
    limit = options.get("limit", len(mean))
    mean, spread = np.ascontiguousarray(mean[:limit]), np.ascontiguousarray(spread[:limit])
    out_dtype = DTYPES.get(options.get("dtype", ""), dtype)
    shift, scale = affine(options, tuple(-1 if letter == "c" else 1 for letter in layout))
    if options.get("mode"):
        z = reference.decode(mean, dtype)
        return reference.encode((z - np.float32(shift)) * np.float32(scale), out_dtype)
    stream = reference.nfc(options.get("stream", name))
    drawn = [
        reference.sample(
            mean,
            spread,
            dtype,
            key=reference.key_of(options.get("seed", 0), stream, key),
            draw=draw,
            parameterization=options.get("parameterization", "logvar"),
            clamp=(options.get("clamp-min", -30.0), options.get("clamp-max", 20.0)),
            temperature=options.get("temperature", 1.0),
            shift=shift,
            scale=scale,
            out_dtype=out_dtype,
        )
        for draw in range(options.get("draws", 1))
    ]
    return np.stack(drawn) if "draws" in options else drawn[0]


def inputs(argument: str) -> Iterator[tuple[str, Path]]:
    """Name and path of each input file."""
    path = SAMPLE_DATA / argument
    if path.is_file():
        yield path.name, path
    for found in sorted(path.rglob("*.safetensors")):
        yield found.relative_to(path).as_posix(), found


def golden() -> list[dict[str, Any]]:
    return [
        {
            "input": argument,
            "options": options,
            "sha256": {
                name: hashlib.sha256(latents(name, path, options).tobytes()).hexdigest()
                for name, path in inputs(argument)
            },
        }
        for argument, options in CASES
    ]


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        GOLDEN.write_text(json.dumps(golden(), indent=1) + "\n")
