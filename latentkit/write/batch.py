"""Complete outputs on their way into their places: synced and moved many at a time."""

from latentkit.write.placing import Placement, commit_all

# They are when there are so many of them, or of their bytes.
_FILES = 256
_BYTES = 1 << 30


class Batch:
    """Takes outputs that are complete; ``placed`` counts those that are in their places."""

    def __init__(self) -> None:
        self.placed = 0
        self._complete: list[Placement] = []
        self._bytes = 0

    def add(self, placement: Placement, size: int) -> None:
        placement.rest()
        self._complete.append(placement)
        self._bytes += size
        if len(self._complete) >= _FILES or self._bytes >= _BYTES:
            self.commit()

    def commit(self) -> None:
        """Place what is complete; where that fails, the rest of it is gone."""
        complete, self._complete, self._bytes = self._complete, [], 0
        try:
            if complete:
                commit_all(complete)
        except BaseException:
            for placement in complete:
                placement.discard()
            raise
        self.placed += len(complete)
