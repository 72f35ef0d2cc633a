"""Standard normal noise that is a function of (seed, stream, draw, position) alone, and latents drawn with it.

Nothing here depends on the processor, the size of blocks or the version of torch: only operations that IEEE 754
rounds correctly are used, in a fixed order. guide/noise.md is the recipe in full, with test vectors.
"""

import hashlib
import unicodedata
from decimal import Context, Decimal
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from latentkit.parameterization import DEFAULT_CLAMP, PARAMETERIZATIONS, Clamp

#: Written into the metadata of what is drawn. Any change of a bit, in noise or latents, takes a new number.
RECIPE = 1

#: Elements worked on at once: few enough for a core's cache, enough that threads do not wait for the interpreter.
CHUNK = 1 << 16

_SOFTPLUS_FLOOR = 1e-4


class Scratch:
    """Buffers for one thread at a time: ``fill_normal`` and ``std_float32`` allocate nothing of size themselves."""

    def __init__(self) -> None:
        self.index = torch.empty(CHUNK, dtype=torch.int32)
        self.float32 = torch.empty(2, CHUNK, dtype=torch.float32)
        self.float64 = torch.empty(2, CHUNK, dtype=torch.float64)


def stream_name(name: str, key: str) -> str:
    """The stream of a tensor: its input's relative name (in Unicode's form C, with ``/``), a NUL, and its key."""
    return f"{unicodedata.normalize('NFC', name)}\0{key}"


def stream_key(seed: int, stream: str) -> tuple[int, int]:
    """Philox's key: the first 16 bytes of SHA-256 over ``SEED NUL STREAM``, as two little-endian 64-bit words.

    The seed is in decimal, the text UTF-8 (a file name's undecodable bytes as they are). Raises ``ValueError``
    unless 0 ≤ seed < 2**64.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed is a whole number from 0 to 2**64 - 1, got {seed}")
    digest = hashlib.sha256(f"{seed}\0{stream}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def fill_normal(out: Tensor, key: tuple[int, int], draw: int, position: int, scratch: Scratch) -> Tensor:
    """Fill ``out`` with the standard normals at ``position``, ``position + 1``, … of one draw, and return it.

    Args:
        out: contiguous float32 on the CPU, any shape; filled in row-major order.
        key: from ``stream_key``.
        draw: 0 ≤ draw < 2**64.
        position: row-major index of the first element in the whole latent tensor, 0 ≤ position < 2**60.
        scratch: this thread's; threads with a scratch each may run at once.

    The bits are Philox 4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
    """
    flat = out.view(-1)
    # NumPy counts up before it gives: these are the words of counters (position // 8 + 1, draw, 0, 0), … .
    # As arrays, since a list that mixes numbers below and above 2^63 would pass through float64 on its way.
    counter = np.array([position // 8, draw, 0, 0], np.uint64)
    philox = np.random.Philox(key=np.array(key, np.uint64), counter=counter)
    start, skip = 0, position % 8
    while start < len(flat):
        stop = min(start + CHUNK - skip, len(flat))
        words = philox.random_raw((skip + stop - start + 1) // 2).view(np.int32)
        _normals(torch.from_numpy(words)[skip : skip + stop - start], flat[start:stop], scratch)
        start, skip = stop, 0
    return out


def _normals(words: Tensor, out: Tensor, scratch: Scratch) -> None:
    """One 32-bit word, one normal: bit 31 is its sign, the others choose a line of the table and a place on it."""
    values, slopes = _tables()
    index = scratch.index[: len(words)]
    v, slope = scratch.float32[:, : len(words)]
    v_bits, r = v.view(torch.int32), index.view(torch.float32)

    torch.bitwise_and(words, 0x7FFFFFFF, out=index)
    v.copy_(index)
    torch.bitwise_right_shift(v_bits, 14, out=index)
    torch.index_select(values, 0, index, out=out)
    torch.index_select(slopes, 0, index, out=slope)
    v_bits.bitwise_and_(0x3FFF)
    r.copy_(v_bits)
    out.add_(slope.mul_(r))
    out.copysign_(words.view(torch.float32))


@cache
def _tables() -> tuple[Tensor, Tensor]:
    """T and D, spread so that the upper 18 bits of a float32 are the index: 0, then 127 · 512 (the float 1.0) on.

    What lies between is never touched, and so takes no memory.
    """
    shipped = load_file(Path(__file__).with_name("normal_table.safetensors"))
    spread = torch.zeros(2, (127 << 9) + len(shipped["T"]) - 1)
    for row, name in zip(spread, ("T", "D"), strict=True):
        row[0] = shipped[name][0]
        row[127 << 9 :] = shipped[name][1:]
    return spread[0], spread[1]


def std_table(dtype: torch.dtype, parameterization: str = "logvar", clamp: Clamp = DEFAULT_CLAMP) -> Tensor:
    """σ of every value of a 16-bit or 8-bit dtype: float32, indexed by the bit pattern as an unsigned number.

    Computed in float64 and rounded once. σ is ``exp(l / 2)`` for ``logvar`` l, ``s`` for ``std``, ``sqrt(v)`` for
    ``var``, ``log(1 + exp(s)) + 1e-4`` for ``softplus``; the clamp acts on log-variance in each. NaN, a negative
    σ and a negative variance give NaN; an infinite log-variance takes the clamped value.
    """
    bits = 8 * dtype.itemsize
    if not dtype.is_floating_point or bits > 16:
        raise TypeError(f"a table is made for floats of 16 or 8 bits, not for {dtype}")
    patterns = torch.arange(1 << bits).to(torch.int16 if bits == 16 else torch.uint8)
    raw = patterns.view(dtype).double().numpy()
    low, high = clamp
    with np.errstate(invalid="ignore", over="ignore"):
        if parameterization == "logvar":
            std = np.exp(np.clip(raw, low, high) / 2)
        else:
            std = np.clip(_unclamped_std(raw, parameterization), _exp(low / 2), _exp(high / 2))
        return torch.from_numpy(std.astype(np.float32))


def _unclamped_std(raw: NDArray[np.float64], parameterization: str) -> NDArray[np.float64]:
    if parameterization == "std":
        return np.where(raw < 0, np.nan, raw)
    if parameterization == "var":
        return np.sqrt(raw)
    if parameterization == "softplus":
        return np.maximum(raw, 0) + np.log1p(np.exp(-np.abs(raw))) + _SOFTPLUS_FLOOR
    raise ValueError(f"parameterization must be one of {', '.join(PARAMETERIZATIONS)}, got {parameterization!r}")


def std_float32(
    raw: Tensor, out: Tensor, parameterization: str = "logvar", clamp: Clamp = DEFAULT_CLAMP, *, scratch: Scratch
) -> Tensor:
    """σ of a float32 scale parameter, with the rules of ``std_table``, written into ``out``, which is returned.

    Args:
        raw: float32 on the CPU, any shape and strides.
        out: contiguous float32 of the same shape; it may share its memory with ``raw`` if it is the same tensor.
        scratch: this thread's.

    ``logvar`` is within 0.51 units in the last place and the same on every machine; ``std`` and ``var`` are
    correctly rounded; ``softplus`` is the same on one machine only, as it needs the machine's exp and log.
    """
    low, high = clamp
    if parameterization == "logvar":
        # Outside of these bounds σ is 0 or infinite in float32.
        low, high = (min(max(bound, -210.0), 180.0) for bound in clamp)
        torch.clamp(raw, low, high, out=out)
        for chunk in torch.split(out.view(-1), CHUNK):
            _exp_half(chunk, low, high, scratch)
        return out
    if parameterization == "softplus":
        for chunk in torch.split(out.copy_(raw).view(-1), CHUNK):
            wide = scratch.float64[0, : len(chunk)].copy_(chunk)
            chunk.copy_(torch.nn.functional.softplus(wide).add_(_SOFTPLUS_FLOOR))
    elif parameterization == "var":
        out.copy_(raw)
        with np.errstate(invalid="ignore"):
            np.sqrt(out.numpy(), out=out.numpy())  # torch.sqrt is not correctly rounded
    elif parameterization == "std":
        out.copy_(raw)
        if not out.numel() or not bool(out.min() >= 0):
            out.masked_fill_(out < 0, torch.nan)
    else:
        _unclamped_std(np.zeros(0), parameterization)
    return out.clamp_(_exp(low / 2), _exp(high / 2))


def _exp_half(x: Tensor, low: float, high: float, scratch: Scratch) -> None:
    """``exp(x / 2)`` in place, for float32 x in [low, high] or NaN: a table at multiples of 1/256, and a parabola."""
    index = scratch.index[: len(x)]
    near = scratch.float32[0, : len(x)]
    f, p = scratch.float64[:, : len(x)]
    first, table = _exp_table(low, high)

    # Adding 1.5 · 2^23 rounds 256 x to an integer k, which then stands in the low bits.
    torch.mul(x, 256.0, out=near).add_(12582912.0)
    torch.sub(near.view(torch.int32), 0x4B400000 + first, out=index).clamp_(0, len(table) - 1)  # the clamp is for NaN
    f.copy_(x.sub_(near.sub_(12582912.0).mul_(1 / 256)))  # exact: |f| ≤ 1/512
    torch.mul(f, 0.125, out=p).add_(0.5).mul_(f).add_(1.0)
    torch.index_select(table, 0, index, out=f)
    x.copy_(p.mul_(f))


@lru_cache(maxsize=8)
def _exp_table(low: float, high: float) -> tuple[int, Tensor]:
    """The first k, and ``exp(k / 512)`` in float64 for k from there to past ``high``."""
    first, last = int(np.floor(256 * low)), int(np.ceil(256 * high))
    k = np.arange(first, last + 1)
    coarse = {int(a): _exp(a / 2) for a in np.unique(k >> 8)}
    fine = np.array([_exp(b / 512) for b in range(256)])
    return first, torch.from_numpy(np.array([coarse[a] for a in (k >> 8).tolist()]) * fine[k & 255])


def _exp(x: float) -> float:
    """e^x correctly rounded (but for 1 in 10^13), which ``math.exp`` is not everywhere."""
    return float(Decimal(x).exp(Context(prec=30, traps=[])))


def draw(
    mean: Tensor,
    std: Tensor,
    eps: Tensor,
    *,
    temperature: float = 1.0,
    shift: float | Tensor = 0.0,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """Latents ``(mean + (temperature · std) · eps - shift) · scale``, each step rounded to float32.

    Args:
        mean, std, eps: float32 of one shape, on one device. ``eps`` becomes the result; ``std`` is overwritten
            when there is a temperature.
        shift, scale: numbers (rounded to float32), or float32 tensors that broadcast, as one value a channel does.

    Steps that change nothing are left out. Products and sums stay apart: a fused one would round once where two
    roundings are promised.
    """
    if temperature != 1.0:
        std.mul_(temperature)
    eps.mul_(std).add_(mean)
    if isinstance(shift, Tensor) or shift != 0.0:
        eps.sub_(shift)
    if isinstance(scale, Tensor) or scale != 1.0:
        eps.mul_(scale)
    return eps


_CANONICAL_NAN = {
    torch.float16: (torch.int16, 0x7E00),
    torch.bfloat16: (torch.int16, 0x7FC0),
    torch.float32: (torch.int32, 0x7FC00000),
    torch.float64: (torch.int64, 0x7FF8000000000000),
}


def store(latents: Tensor, out: Tensor) -> Tensor:
    """Round float32 latents once to the dtype of ``out``, and give every NaN the same bits; returns ``out``.

    The bits of a NaN are the one thing that processors do not agree on. Raises ``TypeError`` for an output dtype
    other than float16, bfloat16, float32 and float64.
    """
    if out.dtype not in _CANONICAL_NAN:
        raise TypeError(f"latents are stored as float16, bfloat16, float32 or float64, not as {out.dtype}")
    out.copy_(latents)
    # A sum is NaN if any term is (or if infinities cancel, which costs time only): the quickest look there is.
    if bool(latents.sum().isnan()):
        integer, bits = _CANONICAL_NAN[out.dtype]
        out.view(integer).masked_fill_(latents.isnan(), bits)
    return out
