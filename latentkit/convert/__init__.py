"""Caches of any container or tool -> safetensors shards or .npy: the same bytes, end to end, with what they mean."""
