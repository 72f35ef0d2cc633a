"""What a user says of the tensors, checked."""

from collections.abc import Collection

from latentkit.errors import RequestError
from latentkit.posterior.layout import check_layout
from latentkit.posterior.parameterization import PARAMETERIZATIONS
from latentkit.read.choice import Selection


def selection_of(
    keys: Collection[str] = (),
    mean_key: str | None = None,
    scale_key: str | None = None,
    layout: str | None = None,
    parameterization: str | None = None,
    preset: str | None = None,
    *,
    latents: bool = False,
) -> Selection:
    """The selection; raises ``RequestError`` for what contradicts itself, or is no layout or parameterization.

    ``latents``: whether latents already drawn are taken.
    """
    if parameterization == "none" and not latents:
        raise RequestError(
            "--parameterization none: latents already drawn have no posterior to compute with; stats reads them"
        )
    if (mean_key is None) != (scale_key is None):
        raise RequestError("--mean-key and --logvar-key name a pair: give both")
    if mean_key is not None and keys:
        raise RequestError("--key names moments, --mean-key and --logvar-key a pair: give one or the other")
    if layout is not None:
        try:
            check_layout(layout)
        except ValueError as error:
            raise RequestError(f"--layout: {error}") from None
    if parameterization not in (None, "none", *PARAMETERIZATIONS):
        raise RequestError(f"--parameterization {parameterization}: choose {', '.join(PARAMETERIZATIONS)} or none")
    if preset is not None and (keys or mean_key is not None):
        raise RequestError("--preset knows which tensors to read: give it, or keys")
    return Selection(tuple(keys), mean_key, scale_key, layout, parameterization, preset, latents)
