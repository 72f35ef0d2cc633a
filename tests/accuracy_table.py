"""Print the tables of latentkit/guide/accuracy.md: errors of diffusers' class, of a float32 script, and of latentkit.

Run as ``python tests/accuracy_table.py``.
"""

import warnings

import adapter
import reference
import torch
from regimes import REGIMES, far_means, generator_for, stored
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Original


SHAPE = 4, 4, 8, 8  # images of 4 channels
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CHOSEN = ["typical", "near the prior 1e-1", "near the prior 3e-3", "near the prior 1e-5", "lower bound", "upper bound"]
SHOWN = {name: REGIMES[name] for name in CHOSEN} | {"far means": far_means({torch.float64: 1e150})}


def by_diffusers(mean: Tensor, raw: Tensor, latents: Tensor) -> tuple[list[float], list[float]]:
    """As it is used: on the stored dtype."""
    posterior = Original(torch.cat([mean, raw], dim=1))
    return posterior.kl().tolist(), posterior.nll(latents).tolist()


def by_script(mean: Tensor, raw: Tensor, latents: Tensor) -> tuple[list[float], list[float]]:
    """What one would write: float32 first, then the formulas of the textbook."""
    mean, logvar, latents = mean.float(), raw.float().clamp(-30, 20), latents.float()
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar)
    nll = 0.5 * (float(reference.LOG_2PI) + logvar + (latents - mean) ** 2 / logvar.exp())
    return kl.sum((1, 2, 3)).tolist(), nll.sum((1, 2, 3)).tolist()


def by_latentkit(mean: Tensor, raw: Tensor, latents: Tensor) -> tuple[list[float], list[float]]:
    mean, raw, latents = (tensor.view(len(mean), 1, SHAPE[1], -1) for tensor in (mean, raw, latents))
    return adapter.kl(mean, raw).ravel().tolist(), adapter.nll(mean, raw, latents).ravel().tolist()


def errors(regime: str, dtype: torch.dtype) -> list[float]:
    """The worst error of each way: of KL relative to itself, then of NLL relative to its terms' sizes."""
    generator = generator_for(regime, dtype)
    flat = SHAPE[0], SHAPE[1] * SHAPE[2] * SHAPE[3]
    mean, raw = (half.view(SHAPE) for half in stored(*SHOWN[regime](flat, dtype, generator), dtype, "logvar"))
    noise = torch.randn(SHAPE, dtype=torch.float64, generator=generator)
    latents = (mean.double() + torch.exp(0.5 * raw.double().clamp(-30, 20)) * noise).to(dtype)
    kls = [(reference.kl(m, r)[0], None) for m, r in zip(mean, raw, strict=True)]
    nlls = [reference.nll(m, r, x) for m, r, x in zip(mean, raw, latents, strict=True)]
    found = [way(mean, raw, latents) for way in (by_diffusers, by_script, by_latentkit)]
    return [
        max(reference.relative_error(got, *expected) for got, expected in zip(way[number], exact, strict=True))
        for number, exact in enumerate((kls, nlls))
        for way in found
    ]


def main() -> None:
    rows = {(name, regime): errors(regime, dtype) for name, dtype in DTYPES.items() for regime in SHOWN}
    for number, measure in enumerate(("KL", "NLL")):
        print(f"| {measure} of | regime | diffusers | float32 script | latentkit |")
        print("| --- | --- | --- | --- | --- |")
        for (name, regime), row in rows.items():
            if measure == "NLL" and (name == "F64" or regime.startswith("near")):
                continue
            cells = [f"{error:.0e}" if error < 1 else "no digit" for error in row[3 * number : 3 * number + 3]]
            print(f"| {name} | {regime} | {' | '.join(cells)} |")
        print()


if __name__ == "__main__":
    main()
