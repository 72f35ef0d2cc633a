"""What a summary says about an encoder, in words: each finding with its figure, its threshold and that one's source.

No finding without evidence, and none for a healthy encoder. What is worth knowing but no fault is a note.
"""

from collections.abc import Sequence

from latentkit.health.findings.channels import (
    collapsed,
    constant_scale,
    dead,
    deterministic,
    factors_off,
    unequal_scale,
)
from latentkit.health.findings.finding import Finding, Severity, where
from latentkit.health.findings.values import (
    alike,
    clamped,
    copies,
    far_out,
    half_precision,
    misread,
    nonfinite,
    one_sample,
)
from latentkit.stats.sample_values import SampleValues
from latentkit.stats.summary import Summary

HEALTHY = "healthy: nothing to find fault with"

__all__ = ["Finding", "Severity", "faults", "find", "verdict", "where"]


def find(
    summary: Summary,
    per_sample: SampleValues | None = None,
    *,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    target_std: float = 1.0,
) -> list[Finding]:
    """All findings, the most serious first.

    Args:
        summary: the figures; copies of samples are found where it was asked for the duplicates.
        per_sample: the KL of every sample, or of latents already drawn their mean square, to find those far out.
        scaling_factor, shift_factor: those in use, to be compared with the latents' own; None: not compared.
        target_std: the standard deviation that scaled latents should have.
    """
    found = [
        *nonfinite(summary),
        *clamped(summary),
        *dead(summary),
        *collapsed(summary),
        *misread(summary),
        *alike(summary, per_sample),
        *far_out(summary, per_sample),
        *copies(summary),
        *unequal_scale(summary),
        *factors_off(summary, scaling_factor, shift_factor, target_std),
        *half_precision(summary, per_sample),
        *constant_scale(summary),
        *deterministic(summary),
        *one_sample(summary),
    ]
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


def faults(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that are more than notes."""
    return [finding for finding in findings if finding.severity is not Severity.note]


def verdict(findings: Sequence[Finding], beside: str = "") -> str:
    """One line on the whole, after what is said ``beside`` another input: what differs is not called healthy."""
    count, notes = len(faults(findings)), len(findings) - len(faults(findings))
    text = f"{count} finding{'s' * (count != 1)}" if count else "no finding" if beside else HEALTHY
    return "; ".join(filter(None, [beside, text, f"{notes} note{'s' * (notes != 1)}" if notes else ""]))
