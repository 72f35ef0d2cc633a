"""The diagonal Gaussian posterior of saved VAE-encoder outputs: sample it, measure it, check it.

Names load on first use, so that ``import latentkit`` costs no ``import torch``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentkit.distributions import DiagonalGaussianDistribution as DiagonalGaussianDistribution
    from latentkit.distributions import DiracDistribution as DiracDistribution
    from latentkit.distributions import normal_kl as normal_kl

__version__ = "0.1.0"

_HOMES = {
    "DiagonalGaussianDistribution": "latentkit.distributions",
    "DiracDistribution": "latentkit.distributions",
    "normal_kl": "latentkit.distributions",
}

__all__ = ["DiagonalGaussianDistribution", "DiracDistribution", "__version__", "normal_kl"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'latentkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
