"""Every loop over elements, compiled by Numba: flat arrays and numbers in, arrays out.

==============  =====================================================================================
``jit``         the decorators, and the cache of what they compile
``formulas``    exp, log, h(l) and softplus, out of correctly rounded operations
``rows``        samples as rows of elements, cut in parts that stay in a core's first cache; sums
``scale``       stored scale parameters: log-variance, σ, σ² and h(l) after the clamp
``tables``      the formulas over all values of 16 and 8 bits
``divergence``  KL to the prior and to another posterior
``likelihood``  negative log-likelihood
``noise``       Philox's words, and normals by a table
``latents``     mean + σ · noise, normalized and rounded to what is stored
``counting``    counts, extremes and sums, channel by channel
``exact``       sums without rounding
``centred``     samples as deviations from a center, and their sums: skewness, kurtosis, neighbours
``products``    sums of products of every two channels
==============  =====================================================================================

The same source, interpreted (``NUMBA_DISABLE_JIT=1``), gives the same bits: every operation is one that IEEE 754 rounds
correctly, in the order in which it is written; nothing is contracted, reordered or left to a library.
"""
