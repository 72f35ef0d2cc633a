"""The recipe of guide/noise.md a second time, in plain NumPy and Python integers, for tests and golden checksums.

Imports nothing from latentkit and no torch. Written to be read against the guide, not to be fast.
"""

import hashlib
import json
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
from mpmath import mp, mpf
from numpy.typing import NDArray

TABLE = Path(__file__).parent.parent / "latentkit" / "sample" / "normal_table.safetensors"
MASK = 2**64 - 1

U32, U64, F32 = NDArray[np.uint32], NDArray[np.uint64], NDArray[np.float32]


def nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def to_float32(x: int) -> float:
    """The nearest float32 of a whole number below 2^63, ties to even, by integers alone."""
    shift = max(x.bit_length() - 24, 0)
    quotient, rest = divmod(x, 1 << shift)
    return float((quotient + (2 * rest + (quotient & 1) > 1 << shift)) << shift)


def key_of(seed: int, name: str, tensor: str) -> tuple[int, int]:
    digest = hashlib.sha256(str(seed).encode() + b"\0" + name.encode() + b"\0" + tensor.encode()).digest()
    low, high = np.frombuffer(digest[:16], "<u8")
    return int(low), int(high)


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox 4x64-10: section 3.3 of Salmon et al. 2011, with the constants of Random123."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (right >> 64) ^ c1 ^ k0, right & MASK, (left >> 64) ^ c3 ^ k1, left & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return c0, c1, c2, c3


def _product(constant: int, x: U64) -> tuple[U64, U64]:
    """(high, low) 64 bits of the product, by halves of 32."""
    low32, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    a1, a0 = np.uint64(constant >> 32), np.uint64(constant & 0xFFFFFFFF)
    x1, x0 = x >> shift, x & low32
    low, cross = a0 * x0, a1 * x0
    middle = a0 * x1 + (low >> shift) + (cross & low32)
    return a1 * x1 + (cross >> shift) + (middle >> shift), (middle << shift) | (low & low32)


def words(key: tuple[int, int], draw: int, position: int, count: int) -> U32:
    """The 32-bit words of positions ``position`` to ``position + count - 1``: eight a counter, low halves first."""
    first, last = position // 8, (position + count - 1) // 8
    c0 = np.arange(1 + last - first, dtype=np.uint64) + np.uint64(first + 1)
    c1, c2, c3 = np.full_like(c0, draw), np.zeros_like(c0), np.zeros_like(c0)
    k0, k1 = key
    for _ in range(10):
        left_high, left_low = _product(0xD2E7470EE14C6C93, c0)
        right_high, right_low = _product(0xCA5A826395121157, c2)
        c0, c1, c2, c3 = right_high ^ c1 ^ np.uint64(k0), right_low, left_high ^ c3 ^ np.uint64(k1), left_low
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    halves = np.stack([c0, c1, c2, c3], axis=1)
    halves = np.stack([halves & np.uint64(0xFFFFFFFF), halves >> np.uint64(32)], axis=2)
    return halves.astype(np.uint32).ravel()[position % 8 :][:count]


@cache
def table() -> tuple[F32, F32]:
    """T and D, read by hand from the safetensors file."""
    data = TABLE.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]

    def tensor(name: str) -> F32:
        begin, end = header[name]["data_offsets"]
        return np.frombuffer(body[begin:end], "<f4")

    return tensor("T"), tensor("D")


def normals_of(word: U32) -> F32:
    """The table step: one word, one normal."""
    t, d = table()
    v = (word & np.uint32(0x7FFFFFFF)).astype(np.float32)
    mantissa, exponent = np.frexp(v)  # v = mantissa * 2^exponent, 1/2 <= mantissa < 1
    place = (np.ldexp(mantissa, 24).astype(np.int64)) - 2**23  # 23 bits after the leading one
    octave = exponent.astype(np.int64) - 1
    index = np.where(v == 0, 0, 1 + octave * 512 + place // 2**14)
    r = np.where(v == 0, 0, place % 2**14).astype(np.float32)
    size = t[index] + d[index] * r
    return np.where(word >> np.uint32(31) == 1, -size, size)


def normals(key: tuple[int, int], draw: int, position: int, count: int) -> F32:
    return normals_of(words(key, draw, position, count))


def decode(raw: NDArray[np.generic], dtype: str) -> F32:
    """Stored values as float32, exactly; ``dtype`` is safetensors' name, and BF16 comes as uint16."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    assert raw.dtype == {"F16": np.float16, "F32": np.float32}[dtype]
    return raw.astype(np.float32)


def encode(z: F32, dtype: str) -> NDArray[np.generic]:
    """Float32 rounded to nearest, ties to even, and one NaN."""
    nan = np.isnan(z)
    if dtype == "F32":
        return np.where(nan, np.uint32(0x7FC00000), z.view(np.uint32)).view(np.float32)
    if dtype == "F16":
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(nan, np.uint16(0x7E00), z.astype(np.float16).view(np.uint16)).view(np.float16)
    assert dtype == "BF16"
    bits = z.view(np.uint32).astype(np.uint64)
    rounded = (bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(nan, np.uint16(0x7FC0), rounded.astype(np.uint16))


def sigma_exact(x: float, parameterization: str, clamp: tuple[float, float] = (-30.0, 20.0)) -> mpf:
    """σ to 50 digits, for finite or infinite x; NaN where there is none."""
    with mp.workdps(50):
        low, high = mp.exp(mpf(clamp[0]) / 2), mp.exp(mpf(clamp[1]) / 2)
        value = mpf(x)
        if mp.isnan(value) or (parameterization in ("std", "var") and value < 0):
            return mpf("nan")
        if parameterization == "logvar":
            return mp.exp(min(max(value, mpf(clamp[0])), mpf(clamp[1])) / 2)
        if parameterization == "var":
            value = mp.sqrt(value)
        elif parameterization == "softplus":
            value = mp.log1p(mp.exp(value)) + mpf(1e-4)
        return min(max(value, low), high)


def round_float32(x: mpf) -> np.float32:
    """The nearest float32, ties to even, of a value in its normal range."""
    with mp.workprec(24):
        return np.float32(float(+x))


def sigma16(x: F32, parameterization: str, clamp: tuple[float, float] = (-30.0, 20.0)) -> F32:
    """σ of 16-bit values, correctly rounded from 50 digits, value by value."""
    bits, inverse = np.unique(x.view(np.uint32), return_inverse=True)
    exact = [round_float32(sigma_exact(float(value), parameterization, clamp)) for value in bits.view(np.float32)]
    return np.array(exact, np.float32)[inverse].reshape(x.shape)


@cache
def _exponentials(first: int, last: int, step: int) -> NDArray[np.float64]:
    """exp(j / step) for j = first .. last, correctly rounded."""
    with mp.workdps(50):
        return np.array([float(mp.exp(mpf(j) / step)) for j in range(first, last + 1)])


def sigma32(x: F32, clamp: tuple[float, float] = (-30.0, 20.0)) -> F32:
    """σ of a float32 log-variance by the guide's table and parabola."""
    largest = np.finfo(np.float32).max
    x = np.minimum(np.maximum(x, np.float32(max(clamp[0], -210.0))), np.float32(min(clamp[1], 180.0)))
    k = np.rint(np.where(np.isnan(x), 0, x).astype(np.float64) * 256).astype(np.int64)
    f = x - (k / 256).astype(np.float32)
    exact = _exponentials(-256, 255, 2)[(k // 256) + 256] * _exponentials(0, 255, 512)[k % 256]
    high = np.minimum(exact, largest).astype(np.float32)
    low = np.where(exact > largest, largest, exact - high).astype(np.float32)
    with np.errstate(over="ignore"):
        return high + (low + high * ((f * np.float32(0.125) + np.float32(0.5)) * f))


def sigma32_of_std(x: F32, clamp: tuple[float, float] = (-30.0, 20.0)) -> F32:
    """σ stored as float32, within the clamp's bounds."""
    low, high = (round_float32(sigma_exact(bound, "logvar", clamp)) for bound in clamp)
    return np.where(x < 0, np.float32(np.nan), np.minimum(np.maximum(x, low), high))


def sample(
    mean: NDArray[np.generic],
    spread: NDArray[np.generic],
    dtype: str,
    *,
    key: tuple[int, int],
    draw: int = 0,
    position: int = 0,
    parameterization: str = "logvar",
    clamp: tuple[float, float] = (-30.0, 20.0),
    temperature: float = 1.0,
    shift: float | F32 = 0.0,
    scale: float | F32 = 1.0,
    out_dtype: str | None = None,
) -> NDArray[np.generic]:
    """Latents as stored, from moments as stored (F16, F32, or BF16 as uint16), from one position on, row-major."""
    m, x = decode(mean, dtype), decode(spread, dtype)
    if dtype != "F32":
        sigma = sigma16(x, parameterization, clamp)
    elif parameterization == "logvar":
        sigma = sigma32(x, clamp)
    elif parameterization == "std":
        sigma = sigma32_of_std(x, clamp)
    else:
        raise NotImplementedError("float32 moments: logvar and std only")
    eps = normals(key, draw, position, m.size).reshape(m.shape)
    with np.errstate(all="ignore"):
        z = m + (np.float32(temperature) * sigma) * eps
        z = (z - np.asarray(shift, np.float32)) * np.asarray(scale, np.float32)
    return encode(z.astype(np.float32), out_dtype or dtype)


#: What golden() draws, for each dtype of moments.
GOLDEN_CALL = {"draw": 2, "position": 12_345, "temperature": 0.9, "shift": 0.0609, "scale": 0.3611}
GOLDEN_KEY = key_of(7, "train/é.safetensors", "moments")


def golden_moments(dtype: str) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Mean and log-variance as stored: usual values, then any bits at all."""
    usual = normals((1, 2), 0, 0, 60_006) * np.float32(3) - np.float32(2)
    bits = words((3, 4), 0, 0, 20_002)
    if dtype == "F32":
        both = np.concatenate([usual, bits.view(np.float32)])
    else:
        any_bits = (bits >> np.uint32(16)).astype(np.uint16)
        both = np.concatenate([encode(usual, dtype).view(np.uint16), any_bits])
        both = both if dtype == "BF16" else both.view(np.float16)
    return both[::2], both[1::2]


def golden() -> dict[str, str]:
    """SHA-256 of the latents of float16, bfloat16 and float32 moments, stored in the moments' dtype."""
    return {
        dtype: hashlib.sha256(
            sample(*golden_moments(dtype), dtype, key=GOLDEN_KEY, **GOLDEN_CALL).tobytes()
        ).hexdigest()
        for dtype in ("F16", "BF16", "F32")
    }


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        print(json.dumps(golden(), indent=4))
