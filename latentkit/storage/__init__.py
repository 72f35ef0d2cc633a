"""Files: finding them, choosing tensors in them, reading blocks, writing latents and tables."""
