"""The diagonal Gaussian posterior of saved VAE-encoder outputs: sample it, measure it, check it.

Names load on first use, so that ``import latentkit`` costs no ``import torch``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentkit.posterior.distribution import DiagonalGaussianDistribution as DiagonalGaussianDistribution
    from latentkit.posterior.distribution import DiracDistribution as DiracDistribution
    from latentkit.posterior.distribution import normal_kl as normal_kl

__version__ = "0.1.0"

_HOMES = {
    "DiagonalGaussianDistribution": "latentkit.posterior.distribution",
    "DiracDistribution": "latentkit.posterior.distribution",
    "normal_kl": "latentkit.posterior.distribution",
}

__all__ = ["DiagonalGaussianDistribution", "DiracDistribution", "__version__", "normal_kl"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'latentkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
