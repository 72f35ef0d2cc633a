"""Damaged and hostile files by the thousand: ``python tests/fuzz.py [CASES] [SEED] [KIND ...]``.

Each case is made of a seed alone, and must end within a second in a result or in an error that is a sentence: nothing
else may be raised. Where the safetensors library reads a file, latentkit reads the same tensors and metadata from it,
and their values and KL are NumPy's.
"""

import argparse
import io
import json
import os
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import chdir
from functools import cache
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from latentkit.errors import LatentkitError
from latentkit.health.figures import condition as parse
from latentkit.measures.kl import kl_values
from latentkit.posterior.affine import from_normalization
from latentkit.read.blocks import plan_blocks, read_block
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Selection, choose
from latentkit.read.header import ELEMENT_BITS, MAX_HEADER_BYTES, read_header
from latentkit.read.inputs import InputFile, find_inputs
from latentkit.read.plan import find_posteriors
from latentkit.read.samples import SampleChoice
from latentkit.stats.state import from_file, merged

#: A case that takes longer hangs.
SECONDS = 1.0

# NumPy's own dtypes of what it can compute with.
_NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
_KEYS = ["moments", "parameters", "mean", "logvar", "std", "latents", "a", "", "\u202e", "\x1b[2J", "é", "k" * 300]
_SIZES = [0, 1, 1, 2, 2, 3, 4, 4, 6, 8, 2**16, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1]
_ODD = [
    "null",
    "true",
    "-0",
    "1e2",
    "2.0",
    "NaN",
    "-Infinity",
    '""',
    '"\\ud800"',
    "[]",
    "{}",
    "1" * 400,
    "[[[]]]",
    "-1",
]
_BYTES = [0, 0xFF, 0x22, 0x2C, 0x5B, 0x5D, 0x7B, 0x7D, 0x5C, 0x30, 0x39, 0x2D, 0x0A, 0x0D, 0xEF]


class Wrong(AssertionError):
    """A case that did not end as it should."""


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, taken out, put in or said again; or the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        if not changed:
            break
        place = rng.randrange(len(changed))
        match rng.randrange(6):
            case 0:
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                changed[place] = rng.choice(_BYTES)
            case 2:
                del changed[place : place + rng.randrange(1, 9)]
            case 3:
                changed[place:place] = bytes(rng.choices(_BYTES, k=rng.randrange(1, 9)))
            case 4:
                changed[place:place] = changed[place : place + rng.randrange(1, 40)]
            case _:
                if rng.random() < 0.3:
                    del changed[place:]
    return bytes(changed)


def _text(value: object, rng: random.Random) -> str:
    """A value as JSON; now and then another one, or in another form."""
    if rng.random() < 0.01:
        return rng.choice(_ODD)
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def _entry(rng: random.Random, begin: int) -> tuple[str, int]:
    """A tensor from ``begin`` on as JSON, and where it ends."""
    dtype = rng.choice(list(ELEMENT_BITS)) if rng.random() < 0.4 else rng.choice(list(_NUMPY))
    huge = rng.random() < 0.03
    shape = [
        rng.choice(_SIZES if huge else _SIZES[rng.random() > 0.1 : 9])
        for _ in range(rng.choice((0, 1, 2, 2, 2, 3, 4, 4, 5, 6)))
    ]
    end = begin + abs(prod(shape)) * ELEMENT_BITS[dtype] // 8
    end = end if end < 1 << 14 else begin
    offsets = [begin, end]
    if rng.random() < 0.02:
        offsets[rng.randrange(2)] += rng.choice((-8, -1, 1, 8, 2**31, 2**63, 2**64))
    name = _text(dtype if rng.random() > 0.02 else dtype.lower(), rng)
    name = f"{{{name}: null}}" if rng.random() < 0.02 else name
    parts = [name, _text(shape, rng), _text(offsets, rng)]
    if rng.random() < 0.1:
        return f"[{', '.join(parts)}]", end
    members = [f'"{key}": {part}' for key, part in zip(("dtype", "shape", "data_offsets"), parts, strict=True)]
    if rng.random() < 0.05:
        members.append(rng.choice((f'"more": {rng.choice(_ODD)}', members[0], '"dtype": "U8"')))
    rng.shuffle(members)
    return f"{{{', '.join(members)}}}", end


def safetensors_bytes(rng: random.Random) -> bytes:
    """A safetensors file, or nearly one."""
    begin, members = 0, []
    keys = rng.choices(_KEYS, k=rng.choice((0, 1, 1, 1, 2, 3, 8)))
    # A key twice leaves a hole in the data, as a rule.
    for key in keys if rng.random() < 0.1 else dict.fromkeys(keys):
        entry, begin = _entry(rng, begin)
        members.append(f"{_text(key, rng)}: {entry}")
    if rng.random() < 0.3:
        metadata = {"layout": "bchw", "noise_recipe": "1"} if rng.random() < 0.3 else {"é": "\x1b", "n": "1"}
        members.append(f'"__metadata__": {_text(metadata, rng)}')
    if rng.random() < 0.01:
        depth = rng.choice((10, 127, 1000, 50_000))
        members.append(f'"deep": {"[" * depth}{"]" * depth}')
    rng.shuffle(members)
    text = f"{{{','.join(members)}}}".encode(errors="surrogatepass") + b" " * rng.choice((0, 0, 3, 8))
    if rng.random() < 0.25:
        text = _mutated(text, rng)
    length = len(text)
    if rng.random() < 0.03:
        length = max(0, length + rng.choice((-1, 1, 8, 2**24, 2**31, 2**62, 2**63)))
    data = length.to_bytes(8, "little") + text + rng.randbytes(begin)
    return _mutated(data, rng) if rng.random() < 0.1 else data


def check_safetensors(rng: random.Random, folder: Path) -> str:
    """Headers and bodies: what the library reads, and nothing else, is read; values and KL are NumPy's."""
    path, data = folder / "a.safetensors", safetensors_bytes(rng)
    path.write_bytes(data)
    try:
        theirs = dict(deserialize(data))
    except SafetensorError:
        theirs = None
    try:
        header = read_header(str(path))
    except LatentkitError as error:
        _ensure(
            theirs is None or int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES or data[8:9] != b"{", str(error)
        )
        return "refused"
    _ensure(theirs is not None, "the library refuses it")
    _ensure(sorted(header.tensors) == sorted(theirs), "other keys")
    for key, info in header.tensors.items():
        tensor = theirs[key]
        _ensure((info.dtype, list(info.shape)) == (tensor["dtype"], list(tensor["shape"])), f"{key!r} is another")
        _ensure(data[info.offset : info.offset + info.nbytes] == bytes(tensor["data"]), f"{key!r} lies elsewhere")
    selection = Selection(
        keys=rng.choice(((), (), ("*",), (rng.choice(_KEYS),))),
        layout=rng.choice((None, None, "bchw", "bc", "blc", "chw", "bbchw")),
        parameterization=rng.choice((None, "logvar", "std", "var", "softplus", "none")),
    )
    try:
        posteriors = choose(InputFile(str(path), "a", str(folder), searched=False), header, selection)
    except LatentkitError:
        return "read, no posterior"
    for posterior in posteriors:
        if posterior.samples and posterior.mean.dtype in _NUMPY:
            _check_values(posterior, theirs, rng)
    return "read, values too"


def _check_values(posterior: Any, theirs: dict[str, Any], rng: random.Random) -> None:
    def array(info: Any) -> Any:
        return np.frombuffer(theirs[info.key]["data"], _NUMPY[info.dtype]).reshape(info.shape).ravel()

    blocks = list(plan_blocks([posterior]))
    halves = [read_block(block, Buffers()) for block in blocks]
    n, outer, channels, inner = posterior.axes.view
    stored = array(posterior.mean).reshape(n, outer, -1, inner)
    mean = stored[:, :, :channels]
    read = np.concatenate([half.view(half.mean).view(mean.dtype).reshape(-1, *mean.shape[1:]) for half in halves])
    _ensure(read.tobytes() == mean.tobytes(), "means differ")
    if posterior.parameterization != "logvar" or rng.random() > 0.05:
        return
    scale = stored[:, :, channels:] if posterior.scale is None else array(posterior.scale).reshape(mean.shape)
    with np.errstate(all="ignore"):
        logvar = np.clip(scale.astype(np.longdouble), -30, 20)
        terms = mean.astype(np.longdouble) ** 2 + np.expm1(logvar) - logvar
        expected = (terms.sum(axis=(1, 2, 3)) / 2).astype(np.float64)
    found = np.concatenate([values[:, 0] for (_, values), _ in kl_values([posterior], workers=1)])
    _ensure(np.allclose(found, expected, rtol=5e-7, atol=1e-12, equal_nan=True), f"KL {found}, and not {expected}")


def check_array(rng: random.Random, folder: Path) -> str:
    """.npy and .npz: what is read of it in place is what NumPy makes of it, where NumPy reads it."""
    names = rng.sample(["moments", "labels", "a/b"], rng.randint(1, 3))
    kinds = [np.float32, np.float16, np.float64, np.int64, np.complex64, ">f4", bool, "U3"]
    shapes = [(2, 4, 2, 2), (3, 4), (1, 2), (0, 4), (4,), ()]
    arrays = {name: np.full(rng.choice(shapes), rng.random()).astype(rng.choice(kinds)) for name in names}
    path, buffer = folder / rng.choice(("a.npy", "a.npz")), io.BytesIO()
    if path.suffix == ".npy":
        arrays = {"array": rng.choice((np.ascontiguousarray, np.asfortranarray))(arrays[names[0]])}
        np.save(buffer, arrays["array"])
    else:
        rng.choice((np.savez, np.savez, np.savez_compressed))(buffer, **arrays)
    data = _mutated(buffer.getvalue(), rng) if rng.random() < 0.6 else buffer.getvalue()
    path.write_bytes(data)
    found = read_header(str(path)).tensors
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = np.load(io.BytesIO(data), allow_pickle=False)
            theirs = {"array": loaded} if path.suffix == ".npy" else {key: loaded[key] for key in loaded.files}
    except Exception:  # whatever a damaged file makes of NumPy; checksums of a zip are not ours to compute
        theirs = {}
    for key, info in found.items():
        if info.dtype in ELEMENT_BITS:
            _ensure(0 <= info.offset <= info.offset + info.nbytes <= len(data), f"{key!r} lies outside")
            ours = data[info.offset : info.offset + info.nbytes]
            _ensure(key not in theirs or ours == theirs[key].tobytes(), f"{key!r} differs")
    return "read" if theirs else "read alone"


def check_torch(rng: random.Random, folder: Path) -> str:
    """.pt: what is read of it in place is what torch makes of it, where torch reads it."""
    import torch

    path, buffer = folder / "a.pt", io.BytesIO()
    dtype, shape = rng.choice((torch.float32, torch.bfloat16, torch.int64)), rng.choice(((2, 4, 2, 2), (3, 4), (2,)))
    tensor = torch.full(shape, rng.randint(1, 9), dtype=dtype)
    torch.save(
        rng.choice(
            (
                tensor,
                {"moments": tensor, "n": 3},
                [{"latents": tensor.mT if tensor.ndim > 1 else tensor}, tensor],
                "text",
            )
        ),
        buffer,
    )
    data = _mutated(buffer.getvalue(), rng) if rng.random() < 0.6 else buffer.getvalue()
    path.write_bytes(data)
    for key, info in read_header(str(path)).tensors.items():
        if info.dtype in ELEMENT_BITS:
            _ensure(0 <= info.offset <= info.offset + info.nbytes <= len(data), f"{key!r} lies outside")
    return "read"


def check_index(rng: random.Random, folder: Path) -> str:
    """index.json: files below its own folder."""
    names = [
        "a.safetensors",
        "b.safetensors",
        "x/c.safetensors",
        "../o",
        "/etc/passwd",
        "",
        ".",
        "x/../../o",
        "\ud800",
        "\0",
    ]
    entries: Any = {
        "weight_map": {rng.choice(_KEYS): rng.choice(names) for _ in range(rng.randrange(4))},
        "metadata": {},
    }
    data = json.dumps(entries).encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")))
    path = _tree(folder) / "m.safetensors.index.json"
    path.write_bytes(_mutated(data, rng) if rng.random() < 0.8 else data)
    for file in find_inputs([str(path)]):
        below = os.path.relpath(os.path.abspath(file.path), path.parent)
        _ensure(not below.startswith(".."), f"leads to {file.path}")
    return "read"


def check_list(rng: random.Random, folder: Path) -> str:
    """@list: paths that are there."""
    tree = _tree(folder)
    names = [b"a.safetensors", b"x", b"*", b"@l", b"", b"gone", b"\xff", b"a.safetensors\r", b"-"]
    lines = [rng.choice(names) for _ in range(rng.randrange(5))]
    data = rng.choice((b"", b"\xef\xbb\xbf")) + rng.choice((b"\n", b"\0", b"\r\n", b"\r")).join(lines)
    # No name leads out of the folder, whatever is changed.
    data = (_mutated(data, rng) if rng.random() < 0.5 else data).replace(b"/", b"x")
    (tree / "list").write_bytes(data)
    with chdir(tree):
        for file in find_inputs(["@list"]):
            _ensure(os.path.lexists(file.path), file.path)
    return "read"


def check_glob(rng: random.Random, folder: Path) -> str:
    """Glob patterns: files that are there, within the folder before the first wildcard."""
    tree = _tree(folder)
    parts = [
        "*",
        "**",
        "?",
        "[",
        "]",
        "[!a]",
        "[a-",
        "x",
        "a",
        ".safetensors",
        "/",
        "/",
        "*.safetensors",
        "\\",
        "\n",
        "{",
        "(",
    ]
    pattern = f"{tree}/{''.join(rng.choices(parts, k=rng.randrange(1, 12)))}"
    for file in find_inputs([pattern]):
        _ensure(os.path.exists(file.path), file.path)
    return "read"


def check_state(rng: random.Random, folder: Path) -> str:
    """States: a damaged one is refused; where the checksum was made to fit, it is refused or gives figures."""
    data = _state(with_extras=rng.random() < 0.3)
    signed = rng.random() < 0.7
    length = 8 + int.from_bytes(data[:8], "little")
    if rng.random() < 0.5:
        changed = data[:8] + _mutated(data[8:length], rng)
        changed = (len(changed) - 8).to_bytes(8, "little") + changed[8:] + data[length:]
    else:
        body = bytearray(data[length:])
        for _ in range(rng.choice((1, 1, 2, 8))):
            place = rng.randrange(len(body))
            body[place : place + 8] = rng.choice((bytes(8), b"\xff" * 8, b"\xff" * 7 + b"\x7f", rng.randbytes(8)))[
                : len(body) - place
            ]
        changed = data[:length] + bytes(body)
    if signed:
        recorded = json.loads(json.loads(data[8:length])["__metadata__"]["latentkit_state"])["sha256"].encode()
        blank = changed.replace(recorded, b"0" * 64, 1)
        changed = changed.replace(recorded, sha256(blank).hexdigest().encode(), 1)
    path = folder / "a.state"
    path.write_bytes(changed)
    state = merged([str(path), str(path)] if rng.random() < 0.2 else [str(path)])
    _ensure(signed or changed == data, "a damaged state was read")
    state.summary()
    return "read"


def check_normalization(rng: random.Random, folder: Path) -> str:
    """Normalization files: finite numbers, none of them 0 to divide by."""
    numbers = [_text(rng.choice((0, 1, -1, 0.5, 1e308, 5e-324, True)), rng) for _ in range(rng.randrange(4))]
    other = [_text(rng.choice((1, 0.5, 2)), rng) for _ in numbers]
    data = f'{{"latents_mean": [{", ".join(numbers)}], "latents_std": [{", ".join(other)}]}}'.encode()
    data = rng.choice((b"", b"", b"\xef\xbb\xbf")) + data
    path = folder / "n.json"
    path.write_bytes(_mutated(data, rng) if rng.random() < 0.5 else data)
    affine = from_normalization(str(path))
    _ensure(bool(np.isfinite(affine.shift + affine.scale).all()) and 0 not in affine.scale, str(affine))
    return "read"


def check_condition(rng: random.Random, folder: Path) -> str:
    """Conditions: a name, a comparison and a number that is one."""
    del folder
    parts = [
        "clamped_fraction",
        "kl_max",
        "samples",
        ">",
        "<",
        "=",
        "!=",
        "0.1",
        "1e999",
        "nan",
        "-",
        " ",
        "\n",
        "__import__",
        "(",
        "x" * 50,
        "²",
        "1_0",
        "\ud800",
    ]
    text = "".join(rng.choices(parts, k=rng.randrange(1, 8)))
    if rng.random() < 0.5:
        text = _mutated(b"clamped_fraction > 0.001", rng).decode(errors="surrogateescape")
    condition = parse(text)
    _ensure(condition.number == condition.number, text)
    return "read"


def check_indices(rng: random.Random, folder: Path) -> str:
    """Lists of samples: of the inputs, and in their range."""
    tree = _tree(folder)
    path = str(tree / "a.safetensors")
    odd = (path, "b", ""), ("moments", "x"), (0, 1, 2, -1, 2**64, "²", None)
    good = (path,), ("moments",), (0, 1)
    rows = [tuple(map(rng.choice, good if rng.random() < 0.8 else odd)) for _ in range(rng.randrange(4))]
    if rng.random() < 0.5:
        data = "".join(json.dumps(dict(zip(("file", "tensor", "index"), row, strict=True))) + "\n" for row in rows)
    else:
        data = "file,tensor,index\n" + "".join(f"{file},{tensor},{index}\n" for file, tensor, index in rows)
    encoded = data.encode(rng.choice(("utf-8", "utf-8-sig")))
    (tree / "rows").write_bytes(_mutated(encoded, rng) if rng.random() < 0.5 else encoded)
    found = find_posteriors([path], Selection(), SampleChoice(indices=str(tree / "rows")))
    for span in found.spans:
        _ensure(span.first >= 0, str(span))
        _ensure(span.first + span.count <= span.posterior.samples, str(span))
    return "read"


@cache
def _tree(folder: Path) -> Path:
    """A folder with a few files below."""
    tree = folder / "tree"
    for name in ("a", "b", "x/c", "x/y/d"):
        path = tree / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        header = b'{"moments":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    (folder / "o").touch()
    return tree


@cache
def _state(*, with_extras: bool) -> bytes:
    """A good state of a few samples."""
    from conftest import SAMPLE_DATA

    from latentkit.cli.main import app

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "good.state"
        options = ["--with", "correlation", "--with", "shape"] if with_extras else []
        out = ["-o", str(Path(folder) / "out.json")]
        app(
            [
                "stats",
                str(SAMPLE_DATA / "collapsed.safetensors"),
                "--limit",
                "7",
                "--state",
                str(path),
                *options,
                *out,
                "-q",
            ],
            standalone_mode=False,
        )
        from_file(str(path))
        return path.read_bytes()


def _ensure(held: bool, words: str) -> None:
    if not held:
        raise Wrong(words)


KINDS: dict[str, tuple[Callable[[random.Random, Path], str], float]] = {
    # The share of cases that each kind has.
    "safetensors": (check_safetensors, 0.70),
    "array": (check_array, 0.04),
    "torch": (check_torch, 0.01),
    "index": (check_index, 0.04),
    "list": (check_list, 0.04),
    "glob": (check_glob, 0.03),
    "state": (check_state, 0.02),
    "normalization": (check_normalization, 0.04),
    "condition": (check_condition, 0.04),
    "indices": (check_indices, 0.04),
}


def fuzz(cases: int, seed: int, kinds: list[str]) -> Counter[str]:
    """Run so many cases; counts how they ended, and raises ``Wrong`` with what makes the first bad one again."""
    ends: Counter[str] = Counter()
    shares = [KINDS[kind][1] for kind in kinds]
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        for case in range(cases):
            kind = random.Random(f"{seed} {case}").choices(kinds, shares)[0]
            end, seconds = _run(kind, seed, case, Path(name))
            if seconds > SECONDS:  # unless something was compiled, or the machine is busy
                end, seconds = _run(kind, seed, case, Path(name))
            _ensure(seconds < SECONDS, f"{kind}, seed {seed}, case {case}: took {seconds:.1f} s")
            ends[f"{kind} {end}"] += 1
    return ends


def _run(kind: str, seed: int, case: int, folder: Path) -> tuple[str, float]:
    """How a case ends, and after how many seconds."""
    start = time.perf_counter()
    try:
        end = KINDS[kind][0](random.Random(f"{seed} {case} {kind}"), folder)
    except (LatentkitError, OSError) as error:
        _ensure(str(error) != "", f"{kind}, seed {seed}, case {case}: an error without words")
        end = "refused"
    except Exception as error:
        raise Wrong(f"{kind}, seed {seed}, case {case}: {type(error).__name__}: {str(error)[:300]}") from error
    return end, time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=int, nargs="?", default=10_000)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    given = parser.parse_args()
    start = time.perf_counter()
    for end, count in sorted(fuzz(given.cases, given.seed, given.kinds or list(KINDS)).items()):
        print(f"{end:24}{count:>12,}")
    print(f"{given.cases:,} cases in {time.perf_counter() - start:,.0f} s")
