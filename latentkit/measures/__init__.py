"""Measures: a block of posteriors to a value for each sample."""
