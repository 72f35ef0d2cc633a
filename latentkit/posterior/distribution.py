"""The maths: the diagonal Gaussian posterior, its KL divergences, its negative log-likelihood.

Names and behaviour follow CompVis's latent-diffusion (``ldm/modules/distributions/distributions.py``) and
diffusers (``models/autoencoders/vae.py``), with their faults mended: every non-batch axis is summed, the
arithmetic is float32 or float64 whatever the dtype of the parameters, and each formula keeps its digits where the
textbook form cancels or overflows. Nothing here branches on data, so vmap, compile and meta tensors work.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentkit.posterior.layout import check_layout, layout_with_channel, split_axes
from latentkit.posterior.parameterization import DEFAULT_CLAMP, PARAMETERIZATIONS, Clamp, check_clamp

LOG_2PI = math.log(2 * math.pi)

# Stable Audio's Oobleck adds this to softplus, so that no standard deviation is zero
# (diffusers, autoencoder_oobleck.py).
SOFTPLUS_FLOOR = 1e-4


@dataclass(frozen=True, slots=True)
class Scale:
    """The spread of a posterior, each tensor after the clamp, of the raw tensor's shape.

    ``std`` and ``var`` come straight from what is stored, not back from ``logvar``, whose rounding would cost
    1e-6 of them in float32.
    """

    logvar: Tensor
    std: Tensor
    var: Tensor


# Taylor coefficients of (e^x - 1 - x) / x², highest power first, as many as each dtype can see up to |x| = 2.
REMAINDER_SERIES = {
    dtype: [1 / math.factorial(power + 2) for power in reversed(range(count))]
    for dtype, count in {torch.float32: 14, torch.float64: 23}.items()
}


def exp_remainder(x: Tensor, exp_x: Tensor) -> Tensor:
    """e^x − 1 − x, the variance's part of the KL, to the last digits for every x.

    Args:
        x: any shape, float32 or float64.
        exp_x: e^x, which the caller has at hand (from σ² directly, for instance).

    Subtraction loses every digit near 0, where collapsed channels lie; there it is a series in x. Its bounds are
    where the two forms lose equally little (a few units in the last place). Gradients are finite: each branch sees
    only arguments that are safe for it.
    """
    near = (x > -1) & (x < 2)
    small = x.masked_fill(~near, 0.0)
    highest, *coefficients = REMAINDER_SERIES[x.dtype]
    series = torch.full_like(small, highest)
    for coefficient in coefficients:
        series = series * small + coefficient
    return torch.where(near, small * small * series, exp_x - 1 - x)


def normal_kl(mean1: Tensor | float, logvar1: Tensor | float, mean2: Tensor | float, logvar2: Tensor | float) -> Tensor:
    """KL(N(mean1, e^logvar1) ‖ N(mean2, e^logvar2)) in nats, elementwise.

    Arguments broadcast; Python numbers are allowed while one argument is a tensor. The result is float32, or
    float64 where an argument is. Raises ``TypeError`` when no argument is a floating-point tensor.
    The signature is that of ``normal_kl`` in OpenAI's guided-diffusion (``losses.py``).
    """
    tensors = [argument for argument in (mean1, logvar1, mean2, logvar2) if isinstance(argument, Tensor)]
    if not tensors:
        raise TypeError("normal_kl needs at least one tensor among its four arguments, got none")
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, _arithmetic_dtype(tensor, "an argument of normal_kl"))
    device = tensors[0].device
    wide = _widest(device)
    m1, l1, m2, l2 = (
        argument.to(wide) if isinstance(argument, Tensor) else torch.full((), argument, dtype=wide, device=device)
        for argument in (mean1, logvar1, mean2, logvar2)
    )
    return _kl_terms((m1 - m2) * torch.exp(-0.5 * l2), l1 - l2).to(dtype)


class DiagonalGaussianDistribution:
    """The posterior N(mean, diag(var)) that a VAE encoder's moments stand for.

    Args:
        parameters: moments, any rank ≥ 2 (with a layout: as it says); the channel axis holds the mean in its first
            half and the scale in its second. Floating-point of 8 to 64 bits.
        deterministic: a point mass at the mean: ``std`` and ``var`` are zero, ``sample`` gives the mean, ``kl`` and
            ``nll`` give zeros.
        layout: the axes as letters, such as ``blc`` or ``bcthw``; default: batch first, channels second.
        channel_dim: the channel axis of a batch-first tensor, instead of ``layout``.
        parameterization: what the second half means: ``logvar``, ``std``, ``var`` or ``softplus``.
        clamp: bounds of the log-variance, in every parameterization.

    ``mean`` has the dtype of the parameters (float32 for 8 bits); ``logvar``, ``std`` and ``var`` are float32, or
    float64 for float64 parameters, and come after the clamp. A negative standard deviation or variance gives NaN.

    Raises:
        TypeError: parameters are not a floating-point tensor.
        ValueError: an odd number of channels, or a shape that the layout does not fit.
    """

    def __init__(
        self,
        parameters: Tensor,
        deterministic: bool = False,
        *,
        layout: str | None = None,
        channel_dim: int | None = None,
        parameterization: str = "logvar",
        clamp: Clamp = DEFAULT_CLAMP,
    ) -> None:
        dtype = _arithmetic_dtype(parameters, "parameters")
        if layout is not None and channel_dim is not None:
            raise ValueError(f"give layout or channel_dim, not both (got {layout!r} and {channel_dim})")
        try:
            if layout is None:
                layout = layout_with_channel(parameters.ndim, 1 if channel_dim is None else channel_dim)
            axes = split_axes(tuple(parameters.shape), check_layout(layout))
            if axes.channels % 2 or axes.channels == 0:
                raise ValueError(
                    f"the channel axis holds mean and scale and needs an even number of channels, got {axes.channels}"
                )
        except ValueError as error:
            raise ValueError(f"{error}; the parameters have {_described(parameters)}") from None
        self.parameters = parameters
        self.deterministic = deterministic
        self.layout = layout
        self.parameterization = parameterization
        self.clamp = check_clamp(clamp)
        mean, raw = parameters.chunk(2, dim=layout.index("c"))
        self._wide_mean = mean.to(dtype)
        self.mean = self._wide_mean if parameters.element_size() == 1 else mean
        self._raw = raw
        scale = self._scale(dtype)
        self.logvar = scale.logvar
        self.std = torch.zeros_like(scale.std) if deterministic else scale.std
        self.var = torch.zeros_like(scale.var) if deterministic else scale.var
        # Counted from the end, so that a leading axis of draws in a sample is a batch axis.
        self._dims = tuple(range(len(axes.batch) - parameters.ndim, 0))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, mean + σ ε, of the mean's shape and dtype.

        ε comes from torch's generator, in float32 or float64; a CPU generator serves any device.
        """
        if self.deterministic:
            return self.mean
        noise = torch.randn(
            self.std.shape,
            generator=generator,
            dtype=self.std.dtype,
            device=self.std.device if generator is None else generator.device,
        )
        return (self._wide_mean + self.std * noise.to(self.std.device)).to(self.mean.dtype)

    def mode(self) -> Tensor:
        """The most likely latents: the mean."""
        return self.mean

    def kl(self, other: "DiagonalGaussianDistribution | None" = None) -> Tensor:
        """KL(self ‖ N(0, I)), or KL(self ‖ other), in nats per sample: shape (B,).

        ½ Σ (m² + e^l − 1 − l), summed over all non-batch axes (Kingma & Welling 2014, appendix B).
        ``other`` may broadcast (a batch of one). Raises ``ValueError`` where shapes do not, or where ``other`` is
        deterministic, which puts it at an infinite distance.
        """
        if other is None:
            if self.deterministic:
                return self._zeros(self.std.shape)
            terms = 0.5 * self._wide_mean * self._wide_mean + 0.5 * exp_remainder(self.logvar, self.var)
            return _total(terms, self._dims)
        if not isinstance(other, DiagonalGaussianDistribution):
            raise TypeError(f"expected other to be a DiagonalGaussianDistribution, got {type(other).__name__}")
        shape = _broadcast(self.mean, other.mean, "the other distribution's mean")
        if self.deterministic:
            return self._zeros(shape)
        if other.deterministic:
            raise ValueError("the KL to a deterministic distribution is infinite: give one with a variance")
        wide = _widest(self.mean.device)
        scale, other_scale = self._scale(wide), other._scale(wide)
        log_ratio = log_variance_ratio(scale, self.parameterization, other_scale, other.parameterization)
        terms = _kl_terms((self.mean.to(wide) - other.mean.to(wide)) / other_scale.std, log_ratio)
        return _total(terms, self._dims).to(torch.promote_types(self.std.dtype, other.std.dtype))

    def nll(self, sample: Tensor, dims: Sequence[int] | None = None) -> Tensor:
        """−log density of ``sample`` in nats: ½ Σ (log 2π + l + (x − m)² e^(−l)).

        Args:
            sample: latents, of the mean's shape or broadcasting with it (a leading axis of draws: shape (K, B)).
            dims: the axes to sum; default: all but the batch.
        """
        dtype = torch.promote_types(self.std.dtype, _arithmetic_dtype(sample, "the sample"))
        shape = _broadcast(self.mean, sample, "the sample")
        summed = self._dims if dims is None else tuple(dims)
        if self.deterministic:
            return _total(self.std.new_zeros(shape, dtype=dtype), summed)
        # Divided before it is squared: the square may exceed float32 where the quotient's square does not.
        deviation = (sample.to(dtype) - self._wide_mean) / self.std
        return _total(0.5 * (LOG_2PI + self.logvar) + 0.5 * deviation * deviation, summed)

    def to(self, *args: Any, **kwargs: Any) -> "DiagonalGaussianDistribution":
        """The same posterior with its parameters as ``Tensor.to`` gives them: on a device, of a dtype, or both."""
        return DiagonalGaussianDistribution(
            self.parameters.to(*args, **kwargs),
            self.deterministic,
            layout=self.layout,
            parameterization=self.parameterization,
            clamp=self.clamp,
        )

    def to_torch(self) -> torch.distributions.Distribution:
        """The posterior as ``torch.distributions.Independent(Normal(mean, std))`` over the non-batch axes.

        Raises ``ValueError`` for a deterministic posterior, which torch's Normal cannot hold.
        """
        if self.deterministic:
            raise ValueError("a deterministic posterior has no torch.distributions.Normal: its std is zero")
        normal = torch.distributions.Normal(self._wide_mean, self.std)
        return torch.distributions.Independent(normal, len(self._dims))

    def _scale(self, dtype: torch.dtype) -> Scale:
        return scale_of(self._raw.to(dtype), self.parameterization, self.clamp)

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        return self.std.new_zeros(shape[: -len(self._dims)])


class DiracDistribution:
    """A point mass: what an encoder without a variance gives (CompVis's latent-diffusion)."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def sample(self) -> Tensor:
        """The value."""
        return self.value

    def mode(self) -> Tensor:
        """The value."""
        return self.value


def _kl_terms(deviation: Tensor, log_ratio: Tensor) -> Tensor:
    """½ (((m1 − m2) / σ2)² + v1/v2 − 1 − log(v1/v2)), elementwise."""
    return 0.5 * deviation * deviation + 0.5 * exp_remainder(log_ratio, torch.exp(log_ratio))


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _total(terms: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sum in float64, so that the sum adds no error of its own, and return to the dtype of the terms."""
    if not dims:
        return terms
    return terms.sum(dims, dtype=_widest(terms.device)).to(terms.dtype)


def _arithmetic_dtype(tensor: Tensor, what: str) -> torch.dtype:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"expected {what} to be a floating-point tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"expected {what} to be a floating-point tensor, got one of {_described(tensor)}")
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _broadcast(mean: Tensor, other: Tensor, what: str) -> tuple[int, ...]:
    try:
        return tuple(torch.broadcast_shapes(mean.shape, other.shape))  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(
            f"expected {what} to have the shape {tuple(mean.shape)} of the mean (or one that broadcasts with it), "
            f"got one of {_described(other)}"
        ) from None


def _described(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}, dtype {tensor.dtype}"


def scale_of(raw: Tensor, parameterization: str = "logvar", clamp: Clamp = DEFAULT_CLAMP) -> Scale:
    """Read a scale parameter: log-variance, standard deviation and variance after the clamp.

    Args:
        raw: the second half of the channels, any shape, float32 or float64 (the arithmetic is the caller's choice;
            ``softplus`` is computed in float64 where the device has it and rounded back).
        parameterization: ``logvar`` l; ``std`` σ, l = 2 log σ (EDM2); ``var`` v, l = log v;
            ``softplus`` s, σ = softplus(s) + 1e-4 (Stable Audio's Oobleck).
        clamp: bounds of the log-variance; they act on l in every parameterization.

    A NaN stays NaN, as does a negative σ or variance; zero has log-variance -inf, which the clamp lifts to its
    lower bound. There is no branch on the data. Gradients are zero beyond the bounds of the clamp, and flow at them.
    """
    low, high = clamp
    if parameterization == "logvar":
        logvar = _clamped(raw, low, high)
        return Scale(logvar, torch.exp(0.5 * logvar), torch.exp(logvar))
    if parameterization == "var":
        var = _clamped(_not_negative(raw), _exp(low, raw.dtype), _exp(high, raw.dtype))
        return Scale(_clamped(torch.log(var), low, high), torch.sqrt(var), var)
    if parameterization == "std":
        std = _not_negative(raw)
    elif parameterization == "softplus":
        std = _softplus_std(raw if raw.device.type == "mps" else raw.double())
    else:
        raise ValueError(f"parameterization must be one of {', '.join(PARAMETERIZATIONS)}, got {parameterization!r}")
    std = _clamped(std, _exp(0.5 * low, std.dtype), _exp(0.5 * high, std.dtype))
    # The logarithm of a rounded bound may lie just outside.
    scale = _clamped(2 * torch.log(std), low, high), std, std * std
    return Scale(*(tensor.to(raw.dtype) for tensor in scale))


def log_variance_ratio(scale: Scale, parameterization: str, other: Scale, other_parameterization: str) -> Tensor:
    """log(v1/v2) of two scales of one dtype, to the last digits also where the two are nearly equal.

    Two posteriors may be far from the prior and near each other: what tells them apart is then in the last digits of
    their log-variances, which a logarithm rounds away. So the ratio comes from what is stored.
    """
    if parameterization != other_parameterization or parameterization == "logvar":
        return scale.logvar - other.logvar
    if parameterization == "var":
        return _log_ratio(scale.var, other.var)
    return 2 * _log_ratio(scale.std, other.std)


def _log_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    excess = (numerator - denominator) / denominator
    near = excess.abs() < 0.5
    far = torch.log((numerator / denominator).masked_fill(near, 1.0))
    return torch.where(near, torch.log1p(excess.masked_fill(~near, 0.0)), far)


def _clamped(raw: Tensor, low: float, high: float) -> Tensor:
    # At a bound itself torch.clamp passes the gradient up to torch 2.13, and none from 2.14 on.
    return torch.where(raw < low, low, torch.where(raw > high, high, raw))


def _exp(bound: float, dtype: torch.dtype) -> float:
    """e^bound as a bound for tensors of ``dtype``: infinite where they cannot hold it."""
    return math.exp(bound) if bound < math.log(torch.finfo(dtype).max) else math.inf


def _not_negative(raw: Tensor) -> Tensor:
    return raw.masked_fill(raw < 0, math.nan)


def _softplus_std(raw: Tensor) -> Tensor:
    """σ = softplus(s) + 1e-4, in the dtype of ``raw``, before any clamp."""
    # torch's own threshold of 20 drops a term of 1e-10, which float64 can see.
    return torch.nn.functional.softplus(raw, threshold=40) + SOFTPLUS_FLOOR
