"""``latentkit sample INPUT --verify OUT``: whether latents are just what their metadata says was drawn."""

import os
from collections import Counter
from collections.abc import Mapping

from latentkit.cli.device import resolve_device
from latentkit.cli.options import Computing, Messages
from latentkit.cli.screen import note, track
from latentkit.errors import RequestError
from latentkit.posterior.affine import Affine
from latentkit.read.choice import Posterior
from latentkit.read.header import read_header
from latentkit.read.inputs import find_inputs
from latentkit.read.metadata import is_state
from latentkit.read.plan import Found
from latentkit.sample.request import DTYPES
from latentkit.sample.verify import Claim, claims_of, refuse_difference, refuse_missing, refuse_mixed
from latentkit.text import count_of, harmless


def verify(
    found: Found,
    output: str,
    asked: Mapping[str, object],
    affine: Affine | None,
    computing: Computing,
    messages: Messages,
) -> None:
    """Draw every file of ``output`` again by its metadata, which may not say other than what was ``asked`` for.

    Raises ``DataError`` at the first latent that differs, and for a folder that lacks some of the samples.
    """
    headers = [header for file in find_inputs([output]) if not is_state(header := read_header(file.path))]
    device = resolve_device(computing.device, messages)
    held: Counter[Posterior] = Counter()
    claims = list(claims_of(headers, found))
    refuse_mixed(claims)
    for claim in claims:
        _refuse_other(claim, asked, affine)
        for posterior in claim.altered:
            note(
                messages,
                f"{posterior.file.path}: its size or header is not that of the input of {claim.header.path}",
            )

        from latentkit.sample.files import compare

        for first in track(compare(claim, workers=computing.workers, device=device), claim.nbytes, messages):
            refuse_difference(claim, first)
        for span in claim.spans:
            held[span.posterior] += span.count
    if os.path.isdir(output):
        refuse_missing(found, held, output)
    print(
        harmless(f"{output}: {count_of(len(headers), 'file')}, {count_of(held.total(), 'sample')}: just what was drawn")
    )


def _refuse_other(claim: Claim, asked: Mapping[str, object], affine: Affine | None) -> None:
    recipe, (low, high) = claim.recipe, claim.recipe.clamp
    there = {name: getattr(recipe, name) for name in ("seed", "draws", "mode", "temperature")}
    there |= {"clamp_min": low, "clamp_max": high, "stream": ", ".join(sorted(set(recipe.streams.values())))}
    there["dtype"] = next(name for name, stored in DTYPES.items() if stored == recipe.dtype)
    for name, value in there.items():
        if asked.get(name, value) != value:
            option = name.replace("_", "-")
            raise RequestError(
                f"{claim.header.path}: was drawn with {option} {value}, as its metadata says, and not {asked[name]}; "
                f"leave --{option} out to verify it as it is"
            )
    if affine not in (None, recipe.affine):
        raise RequestError(
            f"{claim.header.path}: was drawn with another shift and scale, as its metadata says, than what the options "
            f"of scaling come to; leave them out to verify it as it is"
        )
