"""Files to blocks: finding them, choosing and pairing tensors, planning, reading."""
