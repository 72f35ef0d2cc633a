"""Standard normal noise that is a function of (seed, stream, draw, position) alone, and latents drawn with it.

Nothing here depends on the processor, the size of blocks or the version of torch: only operations that IEEE 754
rounds correctly are used, in a fixed order. guide/noise.md is the recipe in full, with test vectors.
"""

import hashlib
import unicodedata
from decimal import Context, Decimal
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from latentkit.parts import PART_ELEMENTS
from latentkit.posterior.parameterization import DEFAULT_CLAMP, PARAMETERIZATIONS, SOFTPLUS_FLOOR, Clamp

#: Written into the metadata of what is drawn. Any change of a bit, in noise or latents, takes a new number.
RECIPE = 1

# Normals whose bits are made at once: a thread that makes few waits more often for the interpreter.
_WORDS = 1 << 20


class Scratch:
    """Buffers for one thread at a time: one of int32, three of float32, and the first of these as int32."""

    def __init__(self, elements: int = PART_ELEMENTS) -> None:
        floats = torch.empty(3, elements).unbind()
        self.buffers = [torch.empty(elements, dtype=torch.int32), *floats, floats[0].view(torch.int32)]


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
    """
    flat = out.view(-1)
    for start in range(0, len(flat), _WORDS):
        part = flat[start : start + _WORDS]
        words = random_words(len(part), key, draw, position + start)
        normals(words, *normal_tables(), part, part.view(torch.int32), scratch.buffers)
    return out


def random_words(count: int, key: tuple[int, int], draw: int, position: int) -> Tensor:
    """The random bits of ``count`` normals, int32, addressed as in ``fill_normal``.

    They are Philox 4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
    """
    # As arrays, since a list that mixes numbers below and above 2^63 would pass through float64 on its way.
    counter = np.array([position // 8, draw, 0, 0], np.uint64)
    # NumPy counts up before it gives: these are the words of counters (position // 8 + 1, draw, 0, 0) and on.
    philox = np.random.Philox(key=np.array(key, np.uint64), counter=counter)
    skip = position % 8
    return torch.from_numpy(philox.random_raw((skip + count + 1) // 2).view(np.int32))[skip : skip + count]


def normals(
    words: Tensor, values: Tensor, slopes: Tensor, out: Tensor, out_bits: Tensor, buffers: list[Tensor]
) -> None:
    """One 32-bit word, one normal: bit 31 is its sign, the others choose a line of the table and a place on it.

    All are flat; ``values`` and ``slopes`` are T and D, ``buffers`` those of ``Scratch``, and ``out_bits`` is the
    memory of ``out`` as int32 (TorchScript cannot take another view of a tensor).
    """
    step = buffers[0].size(0)
    for start in range(0, words.size(0), step):
        stop = min(start + step, words.size(0))
        index, line, v_bits = buffers[0][: stop - start], buffers[1][: stop - start], buffers[4][: stop - start]
        normal = out[start:stop]
        torch.bitwise_and(words[start:stop], 0x7FFFFFFF, out=index)
        line.copy_(index)  # v, rounded to float32
        torch.bitwise_and(v_bits, 0x3FFF, out=index)
        normal.copy_(index)  # r
        torch.bitwise_right_shift(v_bits, 14, out=index)
        torch.index_select(slopes, 0, index, out=line)
        normal.mul_(line)
        torch.index_select(values, 0, index, out=line)
        normal.add_(line)
        # What the table gives is not negative; this is copysign in a third of its time.
        torch.bitwise_and(words[start:stop], -0x80000000, out=index)
        out_bits[start:stop].bitwise_or_(index)


@cache
def normal_tables() -> tuple[Tensor, Tensor]:
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
    with np.errstate(invalid="ignore", over="ignore"):
        if parameterization == "logvar":
            std = np.exp(np.clip(raw, *clamp) / 2)
        else:
            std = np.clip(_unclamped_std(raw, parameterization), *_std_bounds(clamp))
        return torch.from_numpy(std.astype(np.float32))


def _unclamped_std(raw: NDArray[np.float64], parameterization: str) -> NDArray[np.float64]:
    if parameterization == "std":
        return np.where(raw < 0, np.nan, raw)
    if parameterization == "var":
        return np.sqrt(raw)
    if parameterization == "softplus":
        return np.maximum(raw, 0) + np.log1p(np.exp(-np.abs(raw))) + SOFTPLUS_FLOOR
    raise ValueError(f"parameterization must be one of {', '.join(PARAMETERIZATIONS)}, got {parameterization!r}")


def std_float32(
    raw: Tensor, out: Tensor, parameterization: str = "logvar", clamp: Clamp = DEFAULT_CLAMP, *, scratch: Scratch
) -> Tensor:
    """σ of a float32 scale parameter, with the rules of ``std_table``, written into ``out``, which is returned.

    Args:
        raw: float32 on the CPU, any shape and strides.
        out: contiguous float32 of the same shape; ``raw`` itself will do.
        scratch: this thread's.

    ``logvar`` is within 0.51 units in the last place and the same on every machine; ``std`` and ``var`` are
    correctly rounded; ``softplus`` is the same on one machine only, as it needs the machine's exp and log.
    """
    if parameterization == "logvar":
        exp_half(raw, *exp_bounds(clamp), *exp_tables(), out, scratch.buffers)
        return out
    return std_of_scale(raw, out, parameterization, clamp)


def std_of_scale(raw: Tensor, out: Tensor, parameterization: str, clamp: Clamp) -> Tensor:
    """``std_float32`` of what is no log-variance."""
    out.copy_(raw)
    if parameterization == "std":
        if out.numel() and not bool(out.min() >= 0):
            out.masked_fill_(out < 0, torch.nan)
    elif parameterization == "var":
        with np.errstate(invalid="ignore"):
            np.sqrt(out.numpy(), out=out.numpy())  # torch.sqrt is not correctly rounded
    else:
        for chunk in torch.split(out.view(-1), PART_ELEMENTS):
            chunk.copy_(torch.from_numpy(_unclamped_std(chunk.double().numpy(), parameterization)))
    return out.clamp_(*_std_bounds(clamp))


def exp_half(
    x: Tensor, least: float, greatest: float, high: Tensor, low: Tensor, out: Tensor, buffers: list[Tensor]
) -> None:
    """``exp(x / 2)`` of float32 x, NaN too, after a clamp: E (1 + q), with k/256 the multiple nearest to x,
    E = exp(k / 512) from a table, and q = f/2 + f²/8 for the f = x - k/256 that is left.

    ``least`` and ``greatest`` are from ``exp_bounds``, ``high`` and ``low`` from ``exp_tables``; ``buffers`` are those
    of ``Scratch``. ``out`` is contiguous, and may be ``x``.
    """
    torch.clamp(x, least, greatest, out=out)
    step = buffers[0].size(0)
    for part in torch.split(out.view(-1), step):
        index, b, e_high, e_low, b_bits = [buffer[: part.size(0)] for buffer in buffers]
        torch.add(part, 49152.0, out=b)  # whose last place is 1/256: the sum rounds x to it, and k is its low bits
        torch.bitwise_and(b_bits, 0x1FFFF, out=index)  # within the table whatever a NaN's bits are
        torch.index_select(high, 0, index, out=e_high)
        torch.index_select(low, 0, index, out=e_low)
        b.sub_(49152.0)
        part.sub_(b)  # f, exact
        torch.mul(part, 0.125, out=b)
        b.add_(0.5).mul_(part)  # q
        b.mul_(e_high).add_(e_low)
        torch.add(b, e_high, out=part)


def exp_bounds(clamp: Clamp) -> tuple[float, float]:
    """The clamp within which ``exp_half`` computes: beyond these bounds σ is zero or infinite in float32."""
    low, high = (min(max(bound, -210.0), 180.0) for bound in clamp)
    return low, high


@cache
def exp_tables() -> tuple[Tensor, Tensor]:
    """``exp(k / 512)`` as a sum of two float32, indexed by the low 17 bits of k, for -2^16 ≤ k < 2^16."""
    coarse = np.array([_exp(i / 2) for i in (*range(256), *range(-256, 0))])
    fine = np.array([_exp(i / 512) for i in range(256)])
    exact = (coarse[:, None] * fine).ravel()
    with np.errstate(over="ignore"):
        largest = np.finfo(np.float32).max
        high = np.minimum(exact, largest).astype(np.float32)
        # Past float32's range the low part is as large, so that their sum is infinite.
        low = np.where(exact > largest, largest, exact - high).astype(np.float32)
    return torch.from_numpy(high), torch.from_numpy(low)


def _std_bounds(clamp: Clamp) -> tuple[float, float]:
    """The clamp's bounds as σ, rounded to float32."""
    with np.errstate(over="ignore"):
        low, high = (float(np.float32(_exp(bound / 2))) for bound in clamp)
    return low, high


def _exp(x: float) -> float:
    """e^x correctly rounded (but for 1 in 10^13), which ``math.exp`` is not everywhere."""
    return float(Decimal(x).exp(Context(prec=30, traps=[])))


def draw(
    mean: Tensor,
    std: Tensor,
    eps: Tensor,
    temperature: float = 1.0,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Latents ``(mean + (temperature · std) · eps - shift) · scale``, each step rounded to float32.

    Args:
        mean, std, eps: float32 of one shape, on one device. ``eps`` becomes the result; ``std`` is overwritten
            when there is a temperature.
        shift, scale: float32 tensors that broadcast, such as one number, or one a channel.

    Steps that change nothing are left out. Products and sums stay apart: a fused one would round once where two
    roundings are promised.
    """
    if temperature != 1.0:
        std.mul_(temperature)
    eps.mul_(std).add_(mean)
    if shift is not None:
        eps.sub_(shift)
    if scale is not None:
        eps.mul_(scale)
    return eps


_CANONICAL_NAN = {torch.float16: 0x7E00, torch.bfloat16: 0x7FC0, torch.float32: 0x7FC00000, torch.float64: 0x7FF8 << 48}


def canonical_nan(dtype: torch.dtype) -> int:
    """The bits of every NaN that is written: they are the one thing that processors do not agree on.

    Raises ``TypeError`` for an output dtype other than float16, bfloat16, float32 and float64.
    """
    if dtype not in _CANONICAL_NAN:
        raise TypeError(f"latents are stored as float16, bfloat16, float32 or float64, not as {dtype}")
    return _CANONICAL_NAN[dtype]


def store(latents: Tensor, out: Tensor) -> Tensor:
    """Round float32 latents once to the dtype of ``out``, with the canonical NaN; returns ``out``.

    Raises as ``canonical_nan`` does.
    """
    bits = canonical_nan(out.dtype)
    out.copy_(latents)
    # A sum is NaN if any term is (or if infinities cancel, which costs time only): the quickest look there is.
    if bool(latents.sum().isnan()):
        bits_of(out).masked_fill_(latents.isnan(), bits)
    return out


def bits_of(latents: Tensor) -> Tensor:
    """The memory of latents as integers."""
    return latents.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[latents.element_size()])
