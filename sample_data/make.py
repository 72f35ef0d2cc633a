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
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save
from skimage import data as pictures_of_skimage
from sklearn.datasets import load_digits
from torch import Tensor, nn

CLAMP = (-30.0, 20.0)
TORCH = version("torch").split("+")[0]
TRAINING_DIGITS = 1285  # the other 512 are held out, and are what `healthy-*` encodes
IMAGE_STRIDES = [(2, 2)] * 3
VIDEO_STRIDES = [(1, 2, 2), (2, 2, 2), (1, 2, 2)]
IMAGE_MODEL = "convolutional VAE, 32x32 pixels to 4x4, 4 channels"
PICTURES = ("astronaut", "chelsea", "coffee")
DIGITS_ORIGIN = f"UCI optical digits, 8x8 enlarged to 32x32, in scikit-learn {version('scikit-learn')}"
PHOTOS_ORIGIN = f"the pictures {', '.join(PICTURES)}, at half size, in scikit-image {version('scikit-image')}"
DIGIT_LABELS = "the digit"
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

    training_story = ""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, channel_dim: int = 1) -> None:
        super().__init__()
        self.encoder, self.decoder, self.channel_dim = encoder, decoder, channel_dim

    def loss(self, images: Tensor, kl_weight: float) -> Tensor:
        """Mean squared error per pixel plus the weighted KL per latent element."""
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
    encoder = nn.Sequential(*down, nn.GroupNorm(8, widths[-1]), conv(widths[-1], 2 * latent_channels, 3, padding=1))
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


def train(
    build: Callable[[], VAE], batches: Callable[[], Tensor], *, steps: int, kl_weight: float, rate: float = 3e-3
) -> VAE:
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
    print(f"trained: {steps} steps in {time.perf_counter() - start:.0f} s, last loss {loss.item():.4f}")
    vae.training_story = (
        f"{steps} Adam steps on mean squared error a pixel + {kl_weight:g} x KL a latent element, seed 0, torch {TORCH}"
    )
    return vae


# The files

# Sample, row of the 2C rows (0 to 3 mean, 4 to 7 logvar), elements written from the first on, value.
PLANTED = (
    (3, 4, 16, -35.0),
    (7, 5, 16, 25.0),
    (11, 6, 16, CLAMP[0]),
    (15, 7, 16, CLAMP[1]),
    (19, 0, 1, math.nan),
    (23, 5, 1, math.nan),
    (27, 1, 1, math.inf),
    (31, 2, 1, -math.inf),
    (35, 6, 1, math.inf),
    (39, 7, 1, -math.inf),
)


def plant(moments: Tensor) -> tuple[Tensor, str]:
    """Moments with the values of `PLANTED` written in, and a sentence that lists them."""
    moments, words = moments.clone(), []
    for sample, row, count, value in PLANTED:
        moments[sample, row].view(-1)[:count] = value
        half = "mean" if row < 4 else "logvar"
        words.append(f"sample {sample}: {value:g} in the first {count} of the {half} of channel {row % 4}")
    return moments, "; ".join(words)


def write(path: Path, tensors: dict[str, Tensor], vae: VAE | None, **metadata: str) -> None:
    """Save with the metadata in a fixed order, so that equal tensors give equal bytes: the library shuffles it."""
    if vae:
        metadata["training"] = vae.training_story
    raw = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"made_by": "sample_data/make.py"})
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] |= metadata
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def healthy_files(out: Path, images: Tensor, labels: Tensor, vae: VAE) -> Tensor:
    """The held-out digits in three dtypes, latents drawn from them, and a synthetic file of edge cases."""
    moments, labels = vae.moments(images[TRAINING_DIGITS:]), labels[TRAINING_DIGITS:]
    about = {"origin": f"the last {len(moments)} of the {DIGITS_ORIGIN}", "model": IMAGE_MODEL, "labels": DIGIT_LABELS}
    for name, dtype in (("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)):
        tensors = {"moments": moments.to(dtype), "labels": labels}
        write(out / f"healthy-{name}.safetensors", tensors, vae, parameterization="logvar", layout="bchw", **about)

    mean, logvar = moments.chunk(2, dim=1)
    latents = mean + torch.exp(logvar / 2) * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    drawn = "mean + exp(logvar / 2) * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)), not scaled"
    about |= {"drawn_from": "moments of healthy-f32.safetensors", "drawn_as": drawn}
    tensors = {"latents": latents, "labels": labels}
    write(out / "latents.safetensors", tensors, vae, parameterization="none", layout="bchw", **about)
    return moments


def synthetic_file(out: Path, healthy: Tensor) -> None:
    planted, words = plant(healthy[:64])
    origin = "SYNTHETIC: the first 64 samples of healthy-f32.safetensors with values written in by hand"
    about = {"origin": origin, "planted": words, "parameterization": "logvar", "layout": "bchw"}
    write(out / "synthetic-clamp.safetensors", {"moments": planted}, None, **about)


def shard_files(out: Path, images: Tensor, labels: Tensor, vae: VAE) -> None:
    """The training digits in four shards, and an index that names the files in order."""
    moments, labels = vae.moments(images[:TRAINING_DIGITS]).half(), labels[:TRAINING_DIGITS]
    weight_map: dict[str, str] = {}
    total = 0
    for number, (part, part_labels) in enumerate(zip(moments.chunk(4), labels.chunk(4), strict=True), start=1):
        name = f"moments-{number:05d}-of-00004.safetensors"
        tensors = {"moments": part, "labels": part_labels}
        origin = f"part {number} of 4 of the first {len(moments)} of the {DIGITS_ORIGIN}"
        about = {"origin": origin, "model": IMAGE_MODEL, "labels": DIGIT_LABELS}
        write(out / name, tensors, vae, parameterization="logvar", layout="bchw", **about)
        weight_map |= {f"{number:05d}/{key}": name for key in tensors}
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / "moments.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def digit_files(out: Path) -> None:
    images, labels = load_digit_images()
    images_to_learn = images[:TRAINING_DIGITS]

    def learn(steps: int, kl_weight: float, rate: float = 3e-3) -> VAE:
        def batches() -> Tensor:
            return images_to_learn[torch.randint(len(images_to_learn), (64,))]

        return train(lambda: conv_vae(1, 4, IMAGE_STRIDES), batches, steps=steps, kl_weight=kl_weight, rate=rate)

    vae = learn(800, 3e-3)
    healthy = healthy_files(out, images, labels, vae)
    synthetic_file(out, healthy)
    shard_files(out / "shards", images, labels, vae)

    ill = (("collapsed", learn(800, 0.6)), ("deterministic", learn(2000, 1e-9, rate=8e-3)))
    chosen = slice(TRAINING_DIGITS, TRAINING_DIGITS + 256)
    origin = f"256 of the {DIGITS_ORIGIN}, from index {TRAINING_DIGITS} on"
    about = {"origin": origin, "model": IMAGE_MODEL, "labels": DIGIT_LABELS}
    for name, vae in ill:
        tensors = {"moments": vae.moments(images[chosen]), "labels": labels[chosen]}
        write(out / f"{name}.safetensors", tensors, vae, parameterization="logvar", layout="bchw", **about)


def photo_files(out: Path) -> None:
    """One VAE of photo patches, saved as mean and std, as a mean and logvar pair, and as one file per image."""
    photos = load_photos()
    vae = train(
        lambda: conv_vae(3, 4, IMAGE_STRIDES),
        lambda: from_each(photos, lambda photo: random_patches(photo, 20))[0],
        steps=800,
        kl_weight=3e-3,
    )
    patches, labels = from_each(photos, overlapping_patches)
    mean, logvar = vae.moments(patches).chunk(2, dim=1)
    about = {"origin": f"32x32 patches of {PHOTOS_ORIGIN}", "model": IMAGE_MODEL, "labels": PHOTO_LABELS}
    tensors = {"moments": torch.cat([mean, torch.exp(logvar / 2)], dim=1), "labels": labels}
    write(out / "mean-std.safetensors", tensors, vae, parameterization="std", layout="bchw", **about)

    cat = labels == PICTURES.index("chelsea")
    about = {"origin": f"32x32 patches of chelsea, of {PHOTOS_ORIGIN}", "model": IMAGE_MODEL}
    tensors = {"mean": mean[cat], "logvar": logvar[cat]}
    write(out / "pair.safetensors", tensors, vae, parameterization="logvar", layout="bchw", **about)

    for number, name in enumerate(PICTURES):
        patches = photos[number].unfold(1, 32, 32).unfold(2, 32, 32)[:, 1, :4].transpose(0, 1)
        about["origin"] = f"a 32x32 patch of {name}, of {PHOTOS_ORIGIN}"
        for place, moments in enumerate(vae.moments(patches)):
            path = out / "per-image" / name / f"{place:03d}.safetensors"
            write(path, {"moments": moments}, vae, parameterization="logvar", layout="chw", **about)


def token_file(out: Path) -> None:
    photos = load_photos()
    vae = train(
        lambda: token_vae(latent_channels=8, tokens=16, patch=8),
        lambda: from_each(photos, lambda photo: random_patches(photo, 20))[0],
        steps=800,
        kl_weight=3e-3,
        rate=2e-3,
    )
    patches, labels = from_each(photos, overlapping_patches)
    tensors = {"moments": vae.moments(patches).half(), "labels": labels}
    model = "transformer VAE, 16 tokens of 8 channels from 32x32 pixels, one token for each 8x8 pixels"
    about = {"origin": f"32x32 patches of {PHOTOS_ORIGIN}", "model": model, "labels": PHOTO_LABELS}
    write(out / "tokens.safetensors", tensors, vae, parameterization="logvar", layout="blc", **about)


def video_file(out: Path) -> None:
    photos = load_photos()
    vae = train(
        lambda: conv_vae(3, 4, VIDEO_STRIDES),
        lambda: from_each(photos, lambda photo: random_clips(photo, 3))[0],
        steps=800,
        kl_weight=1e-3,
    )
    torch.manual_seed(1)  # other clips than those of the training
    clips, labels = from_each(photos, lambda photo: random_clips(photo, 64))
    tensors = {"moments": vae.moments(clips).bfloat16(), "labels": labels}
    origin = f"clips of 8 frames of 32x32, made by a window that pans and zooms over {PHOTOS_ORIGIN}"
    model = "3-D convolutional VAE, 8 frames of 32x32 pixels to 4 latent frames of 4x4, 4 channels"
    about = {"origin": origin, "model": model, "labels": PHOTO_LABELS}
    write(out / "video.safetensors", tensors, vae, parameterization="logvar", layout="bcthw", **about)


# What was promised of them


def channels(path: Path) -> tuple[Tensor, Tensor]:
    """A file's mean and logvar as float32 (C, elements of all samples), by its own metadata."""
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    tensors = {key: tensor.float() for key, tensor in load_file(path).items()}
    axis = about["layout"].index("c")
    if "moments" in tensors:
        mean, second = tensors["moments"].chunk(2, dim=axis)
    else:
        mean, second = tensors["mean"], tensors["logvar"]
    logvar = 2 * second.log() if about["parameterization"] == "std" else second
    return mean.movedim(axis, 0).flatten(1), logvar.movedim(axis, 0).flatten(1)


def report_and_check(out: Path) -> None:
    """Print each channel's figures, and stop if a file is not what its name says."""
    for path in sorted([*out.glob("*.safetensors"), *out.glob("shards/*.safetensors")]):
        if path.stem in ("latents", "synthetic-clamp"):
            continue
        mean, logvar = channels(path)
        spread, cost = mean.var(dim=1), kl(mean, logvar).mean(dim=1)
        scale = (spread + logvar.exp().mean(dim=1)).sqrt()
        print(path.relative_to(out))
        for name, values in (("logvar", logvar.mean(dim=1)), ("var of means", spread), ("KL", cost), ("sd", scale)):
            print(f"  {name:13}" + " ".join(f"{value:9.4f}" for value in values))
        dead = (spread < 0.01) & (cost < 0.01)
        if path.stem == "collapsed":
            good = 1 < dead.sum() < len(dead) and spread.max() > 0.1
        elif path.stem == "deterministic":
            good = logvar.mean(dim=1).max() < -12 and logvar.min() > CLAMP[0]
        else:
            good = spread.min() > 0.1 and cost.min() > 0.3 and cost.max() < 4 and scale.max() < 3 * scale.min()
        if not good:
            raise SystemExit(f"{path.name} is not what its name says: train it again with other settings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path(__file__).parent, help="folder to write to")
    out = parser.parse_args().out
    torch.set_num_threads(1)  # the order of sums must not depend on the number of cores
    torch.use_deterministic_algorithms(True)
    for make in (digit_files, photo_files, token_file, video_file):
        make(out)
    report_and_check(out)


if __name__ == "__main__":
    main()
