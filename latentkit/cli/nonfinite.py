"""``--on-nonfinite``: what NaN and infinities in the data do to rows."""

from typing import TYPE_CHECKING, Any

from latentkit.cli.options import Messages, OnNonfinite
from latentkit.cli.screen import warn
from latentkit.errors import DataError
from latentkit.failures import Failures
from latentkit.read.choice import Span
from latentkit.text import count_of

if TYPE_CHECKING:
    from latentkit.cli.row_columns import Measured


def refuse_nonfinite(measured: "Measured", failures: Failures, *, paired: bool = False) -> "Measured":
    """``--on-nonfinite error``: the first sample that is not finite, or its partner is not, is an error of its file."""
    import numpy as np

    for span, values in measured:
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if not len(bad):
            yield span, values
            continue
        posterior, index = span.posterior, span.first + int(bad[0])
        sentence = (
            f"{posterior.label}, sample {index} holds NaN or an infinite mean{', or its partner does' * paired}; "
            f"--on-nonfinite skip leaves such samples out"
        )
        failures.add(posterior.file.path, DataError(sentence, kind="nonfinite", tensor=posterior.key, index=index))


class Nonfinite:
    """Counts samples with NaN or infinite values, and does with them what --on-nonfinite says."""

    def __init__(self, rule: OnNonfinite, *, paired: bool = False) -> None:
        self._rule = rule
        self._paired = paired
        self.samples = 0
        self.count = 0

    @property
    def facts(self) -> dict[str, Any]:
        skipped = self.count if self._rule is OnNonfinite.skip else 0
        return {"samples": self.samples, "nonfinite": self.count, "skipped": skipped}

    def watch(self, measured: "Measured") -> "Measured":
        import numpy as np

        for span, values in measured:
            self.samples += span.count
            bad = ~np.isfinite(values).all(axis=1)
            if not bad.any():
                yield span, values
                continue
            self.count += int(bad.sum())
            if self._rule is OnNonfinite.warn:
                yield span, values
                continue
            # Each run of good rows is a span of its own.
            edges = np.flatnonzero(np.diff(np.concatenate(([True], bad, [True])).astype(np.int8)))
            for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                yield Span(span.posterior, span.first + begin, end - begin), values[begin:end]

    def include(self, other: "Nonfinite") -> None:
        """Count what ``other`` counted, too."""
        self.samples += other.samples
        self.count += other.count

    def report(self, messages: Messages, *, has_rows: bool) -> None:
        """Say what was not finite; ``has_rows``: in a row per value, and not in figures of many."""
        if self.count:
            done = "their rows say nan or inf" if has_rows else "counted apart"
            done = "left out" if self._rule is OnNonfinite.skip else done
            held = f"hold NaN or an infinite mean{', or their partners do' * self._paired}: {done}"
            warn(messages, f"{self.count:,} of {count_of(self.samples, 'sample')} {held}")
