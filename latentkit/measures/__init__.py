"""Measures: a block of posteriors to a value for each sample, and what many samples' values come to.

A measure is one loop in ``compiled``, one file here and one command in ``cli``.
"""
