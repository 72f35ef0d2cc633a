"""Sampling: recipe, noise, drawing, files of latents."""
