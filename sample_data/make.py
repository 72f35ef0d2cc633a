# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch==2.13.0",
#     "numpy>=2",
#     "safetensors>=0.5",
#     "scikit-image==0.26.0",
#     "scikit-learn==1.9.1",
# ]
# ///
"""Train small VAEs on real pictures and save what their encoders say, as the sample data of latentkit.

Everything is made from images inside the scikit-learn and scikit-image packages: no download, a few minutes of CPU.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from skimage import data as pictures_of_skimage
from sklearn.datasets import load_digits
from torch import Tensor, nn

Batches = Callable[[], Tensor]
CLAMP = (-30.0, 20.0)
TRAINING_DIGITS = 1285  # the other 512 are held out, and are what `healthy-*` encodes
PICTURES = ("astronaut", "chelsea", "coffee")
DIGITS_ORIGIN = f"optical digits, 8x8 enlarged to 32x32, in scikit-learn {version('scikit-learn')}"
PHOTOS_ORIGIN = f"the pictures {', '.join(PICTURES)} in scikit-image {version('scikit-image')}"
PHOTO_LABELS = f"number of the picture: {', '.join(f'{i} {name}' for i, name in enumerate(PICTURES))}"


# The pictures


def load_digit_images() -> tuple[Tensor, Tensor]:
    """All 1,797 digits as (B, 1, 32, 32) in [-1, 1], with their labels."""
    digits = load_digits()
    small = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
    images = F.interpolate(small, size=32, mode="bicubic", align_corners=False).clamp(-1, 1)
    return images, torch.from_numpy(digits.target).long()


def load_photos() -> list[Tensor]:
    """The colour pictures at half their size, as (3, H, W) in [-1, 1]."""
    arrays = [getattr(pictures_of_skimage, name)() for name in PICTURES]
    return [F.avg_pool2d(torch.from_numpy(array).permute(2, 0, 1).float() / 127.5 - 1, 2) for array in arrays]


def look(photo: Tensor, centres: Tensor, sides: Tensor, pixels: int = 32) -> Tensor:
    """Square windows of a photo as (N, 3, pixels, pixels); centres (N, 2) are y, x, in the photo's pixels, as sides."""
    steps = (torch.arange(pixels) + 0.5) / pixels - 0.5
    y, x = ((centres[:, axis, None] + sides[:, None] * steps) / photo.shape[axis + 1] * 2 - 1 for axis in (0, 1))
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    return F.grid_sample(photo.expand(len(grid), -1, -1, -1), grid, padding_mode="reflection", align_corners=False)


def random_centres(photo: Tensor, sides: Tensor) -> Tensor:
    """Centres that keep windows of these sides inside the photo."""
    room = torch.tensor(photo.shape[1:]) - sides[:, None]
    return sides[:, None] / 2 + torch.rand(len(sides), 2) * room


def random_patches(photo: Tensor, count: int) -> Tensor:
    sides = torch.full((count,), 32.0)
    return look(photo, random_centres(photo, sides), sides)


def random_clips(photo: Tensor, count: int, frames: int = 8) -> Tensor:
    """Clips (N, 3, frames, 32, 32) of a window that pans and zooms from a random place to one nearby."""
    sides = 24 + 24 * torch.rand(2, count)
    start = random_centres(photo, sides.amax(0))
    end = start + 12 * (2 * torch.rand(count, 2) - 1)
    along = torch.linspace(0, 1, frames)[:, None]
    side = torch.lerp(sides[0], sides[1], along)
    centre = torch.lerp(start, end, along[..., None])
    views = look(photo, centre.flatten(0, 1), side.flatten())
    return views.unflatten(0, (frames, count)).permute(1, 2, 0, 3, 4).contiguous()


def overlapping_patches(photo: Tensor) -> Tensor:
    """All 32x32 patches at steps of 16 pixels, row by row."""
    patches = photo.unfold(1, 32, 16).unfold(2, 32, 16)
    return patches.permute(1, 2, 0, 3, 4).flatten(0, 1).contiguous()


def from_each(photos: Sequence[Tensor], take: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """What `take` gives of every photo, in one tensor, and the photo's number as labels."""
    parts = [take(photo) for photo in photos]
    labels = [torch.full((len(part),), number) for number, part in enumerate(parts)]
    return torch.cat(parts), torch.cat(labels)


# The models


class VAE(nn.Module):
    """An encoder to moments (mean and log-variance along one axis) and a decoder from latents."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, channel_dim: int = 1) -> None:
        super().__init__()
        self.encoder, self.decoder, self.channel_dim = encoder, decoder, channel_dim

    def loss(self, images: Tensor, kl_weight: float) -> Tensor:
        """Mean squared error a pixel plus the weighted KL a latent element."""
        mean, logvar = self.encoder(images).chunk(2, dim=self.channel_dim)
        latents = mean + torch.exp(logvar / 2) * torch.randn_like(mean)
        return F.mse_loss(self.decoder(latents), images) + kl_weight * kl(mean, logvar).mean()

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        return torch.cat([self.encoder(batch) for batch in images.split(64)])


def conv_vae(pixel_channels: int, latent_channels: int, strides: Sequence[tuple[int, ...]]) -> VAE:
    """A plain convolutional VAE for images or clips that shrinks them by the given strides, one a level."""
    conv, back = ((nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d))[len(strides[0]) - 2]
    widths = [pixel_channels, *(16 * 2**level for level in range(len(strides)))]
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    for above, below, stride in zip(widths, widths[1:], strides, strict=False):
        down += [conv(above, below, 3, stride=stride, padding=1), nn.SiLU()]
        up = [nn.SiLU(), conv(below, below, 3, padding=1), nn.SiLU(), back(below, above, stride, stride=stride), *up]
    encoder = nn.Sequential(*down, conv(widths[-1], 2 * latent_channels, 3, padding=1))
    return VAE(encoder, nn.Sequential(conv(latent_channels, widths[-1], 3, padding=1), *up))


class Mixer(nn.Module):
    """Two transformer layers over tokens (B, L, width) that know their place."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.places = nn.Parameter(0.02 * torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens + self.places)


class Patches(nn.Module):
    """Images (B, 3, H, W) as tokens (B, L, 3 * side * side)."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        return F.unfold(images, self.side, stride=self.side).transpose(1, 2)


class Unpatch(Patches):
    """The way back from `Patches`, to square images."""

    def forward(self, tokens: Tensor) -> Tensor:
        across = self.side * math.isqrt(tokens.shape[1])
        return F.fold(tokens.transpose(1, 2), (across, across), self.side, stride=self.side)


def token_vae(latent_channels: int, tokens: int, patch: int, width: int = 64) -> VAE:
    """A transformer VAE with one latent token for each square patch of a colour image: moments are (B, L, 2C)."""
    values = 3 * patch**2
    to_tokens = [Patches(patch), nn.Linear(values, width), Mixer(tokens, width), nn.Linear(width, 2 * latent_channels)]
    to_pixels = [nn.Linear(latent_channels, width), Mixer(tokens, width), nn.Linear(width, values), Unpatch(patch)]
    return VAE(nn.Sequential(*to_tokens), nn.Sequential(*to_pixels), channel_dim=2)


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mean.square() + torch.expm1(logvar) - logvar)


def train(build: Callable[[], VAE], batches: Batches, *, steps: int, kl_weight: float, rate: float = 3e-3) -> VAE:
    """A trained VAE, the same on every run: weights, batches and noise come from one seed."""
    torch.manual_seed(0)
    start, vae = time.perf_counter(), build()
    optimizer = torch.optim.Adam(vae.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = vae.loss(batches(), kl_weight)
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"  {steps} steps in {time.perf_counter() - start:.0f} s, last loss {loss.item():.4f}")
    return vae.eval()
