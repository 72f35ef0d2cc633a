"""Makes latentkit/normal_table.safetensors, the inverse of the normal distribution function that noise.py looks up.

    python tests/make_normal_table.py [FILE]

A word's low 31 bits, v, stand for the upper tail probability (v + 1/2) / 2^32 and so for the normal
g(v) = -Phi^-1((v + 1/2) / 2^32). noise.py casts v to float32; the exponent and the top 9 mantissa bits choose a
segment, the 14 low bits r the place in it, and the answer is T + D r.
"""

import sys
from pathlib import Path

import numpy as np
from mpmath import mp, mpf
from safetensors.numpy import save
from scipy.special import ndtri

SEGMENTS = 512  # segments an octave: the top 9 bits of the mantissa
STEPS = 2**14  # values of r a segment
METADATA = {"made_by": "tests/make_normal_table.py"}  # one entry: their order is not kept


def g(v: mpf) -> mpf:
    """The normal whose upper tail has the probability (v + 1/2) / 2^32, to working precision."""
    p = (v + mpf(1) / 2) / 2**32
    z = mpf(-float(ndtri(float(p))))
    for _ in range(2):  # Halley: each step trebles the 15 digits that SciPy gives
        error = mp.erfc(z / mp.sqrt(2)) / 2 - p
        step = error * mp.sqrt(2 * mp.pi) * mp.exp(z * z / 2)
        z += step / (1 + z * step / 2)
    return z


def entry(index: int) -> tuple[float, float]:
    """(T, D) of one segment: 0 is v = 0; then 31 octaves of 512; the last is v = 2^31, to which 2^31 - 64 .. round."""
    if index == 0:
        return float(g(mpf(0))), 0.0
    if index == 31 * SEGMENTS + 1:
        return float(g(mpf(2**31) - mpf("32.5"))), 0.0  # the middle of what rounds up
    octave, segment = divmod(index - 1, SEGMENTS)
    start = mpf(2) ** octave * (1 + mpf(segment) / SEGMENTS)
    # v is an integer, so in the low octaves r takes only every s-th value, and below v = 1024 only 0.
    s = 2 ** min(max(23 - octave, 0), 14)
    points = STEPS // s
    if points == 1:
        return float(g(start)), 0.0
    # The line through g at one standard deviation of r on both sides of its mean: the error's mean over the
    # segment is zero to third order, so that moments and tails are not biased.
    mean, deviation = mpf(STEPS - s) / 2, s * mp.sqrt(mpf(points**2 - 1) / 12)
    per_step = mpf(2) ** (octave - 23)
    low, high = g(start + per_step * (mean - deviation)), g(start + per_step * (mean + deviation))
    slope = (high - low) / (2 * deviation)
    return float((low + high) / 2 - slope * mean), float(slope)


def table() -> bytes:
    """The whole file."""
    with mp.workdps(40):
        rows = np.array([entry(index) for index in range(31 * SEGMENTS + 2)]).astype(np.float32)
    return save({"T": rows[:, 0].copy(), "D": rows[:, 1].copy()}, METADATA)


if __name__ == "__main__":
    default = Path(__file__).parent.parent / "latentkit" / "sample" / "normal_table.safetensors"
    Path(sys.argv[1] if len(sys.argv) > 1 else default).write_bytes(table())
