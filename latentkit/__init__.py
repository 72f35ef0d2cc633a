"""The diagonal Gaussian posterior of saved VAE-encoder outputs: sample it, measure it, check it.

Names load on first use, so that ``import latentkit`` costs no ``import torch``.
"""

# Not from ``typing``, which takes longer to load than all else before the command line takes signals.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from latentkit.api import Stats as Stats
    from latentkit.api import kl as kl
    from latentkit.api import nll as nll
    from latentkit.api import sample as sample
    from latentkit.api import stats as stats
    from latentkit.dataset import LatentDataset as LatentDataset
    from latentkit.dataset import LatentIterableDataset as LatentIterableDataset
    from latentkit.errors import DataError as DataError
    from latentkit.errors import LatentkitError as LatentkitError
    from latentkit.errors import RequestError as RequestError
    from latentkit.posterior.distribution import DiagonalGaussianDistribution as DiagonalGaussianDistribution
    from latentkit.posterior.distribution import DiracDistribution as DiracDistribution
    from latentkit.posterior.distribution import normal_kl as normal_kl
    from latentkit.sources import Posteriors as Posteriors
    from latentkit.sources import open as open
else:
    # Functions have the names of these rooms. A room puts its name here when it is first imported: now, so not later.
    from latentkit import sample, stats

    del sample, stats

__version__ = "0.1.0"

_HOMES = {
    "DataError": "latentkit.errors",
    "DiagonalGaussianDistribution": "latentkit.posterior.distribution",
    "DiracDistribution": "latentkit.posterior.distribution",
    "LatentDataset": "latentkit.dataset",
    "LatentIterableDataset": "latentkit.dataset",
    "LatentkitError": "latentkit.errors",
    "Posteriors": "latentkit.sources",
    "RequestError": "latentkit.errors",
    "Stats": "latentkit.api",
    "kl": "latentkit.api",
    "nll": "latentkit.api",
    "normal_kl": "latentkit.posterior.distribution",
    "open": "latentkit.sources",
    "sample": "latentkit.api",
    "stats": "latentkit.api",
}

__all__ = [
    "DataError", "DiagonalGaussianDistribution", "DiracDistribution", "LatentDataset", "LatentIterableDataset",
    "LatentkitError", "Posteriors", "RequestError", "Stats", "__version__", "kl", "nll", "normal_kl", "open", "sample",
    "stats",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'latentkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
