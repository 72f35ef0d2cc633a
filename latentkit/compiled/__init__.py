"""Every loop over elements, compiled by Numba: flat arrays and numbers in, arrays out.

==============  =====================================================================================
``jit``         the decorators, and the cache of what they compile
``formulas``    exp, log, h(l) and softplus, out of correctly rounded operations
``rows``        samples as rows of elements, cut in parts that stay in a core's first cache; sums
``scale``       stored scale parameters: log-variance, σ, σ² and h(l) after the clamp
``tables``      the formulas over all values of 16 and 8 bits
``divergence``  KL to the prior and to another posterior
``likelihood``  negative log-likelihood
==============  =====================================================================================

The same source, interpreted (``NUMBA_DISABLE_JIT=1``), gives the same bits: every operation is one that IEEE 754 rounds
correctly, in the order in which it is written; nothing is contracted, reordered or left to a library.
"""
