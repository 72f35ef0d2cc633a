"""Which tensors of a file are moments, and how their axes and halves are read. Never a silent guess between two.

Works on headers alone, so what it refuses is refused before torch is imported.
"""

import fnmatch
import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from latentkit.errors import DataError, RequestError
from latentkit.posterior.layout import Axes, default_layout, split_axes
from latentkit.read.header import Header, TensorInfo
from latentkit.read.inputs import InputFile
from latentkit.read.metadata import Said, is_drawn, is_state, said_in
from latentkit.read.presets import Preset, preset_called, recognised
from latentkit.text import near

#: Keys that name moments beyond doubt.
MOMENTS_KEYS = ("moments", "parameters", "latent_dist.parameters")

#: Pairs of keys for the mean and its scale, and what the scale then is.
PAIRS = (("mean", "logvar", "logvar"), ("mu", "logvar", "logvar"), ("mean", "std", "std"))

# What the scale of a pair is called, and what it then is.
_SCALE_NAMES = {"std": "std", "sigma": "std", "stddev": "std", "var": "var", "variance": "var"}
#: The weakest reason to choose a tensor.
ONLY_FLOAT = "the only floating-point tensor"

# What containers call an array or tensor that has no name: the file's stands for it.
_NAMELESS = {".npy": "array", ".pt": "tensor", ".pth": "tensor"}
# Characters of an error's list of tensors.
_MOST_LISTED = 480

_DRAWN_KEYS = re.compile(r"(^|\.)(latents?([._].*|\d*)|.*_latents|encoded_video)$")
# What caches hold beside latents: features of their captions (U-ViT's are files i_0.npy), and statistics of all.
_TEXT_KEYS = re.compile(
    r"(.*[._])?(varlen|prompts?|captions?|te?xt|t5|byt5|clip|clipl|llm|llama|vl|ctx|hidden|pool|pooled)([._\d].*)?"
    r"|\d+_\d+|empty_context",
    re.IGNORECASE,
)
# Either half of a pair, in a file of its own or without the other.
_HALF_KEYS = re.compile(r"(means?|mu|log_?vars?|stds?|sigmas?|vars?|variances?)([._-]\d.*)?", re.IGNORECASE)
_STATISTICS = re.compile(r"(.*[._-])?stat(istic)?s")


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user says of the tensors: keys, layout, parameterization, preset; None where nothing is said.

    ``latents``: whether latents already drawn may be read, where a file says that it holds such.
    """

    keys: tuple[str, ...] = ()
    mean_key: str | None = None
    scale_key: str | None = None
    layout: str | None = None
    parameterization: str | None = None
    preset: str | None = None
    latents: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Posterior:
    """A reference to one posterior in a file: moments in one tensor, or a pair of mean and scale.

    Where ``parameterization`` is ``none`` it is latents already drawn: the mean alone.
    Equal to itself alone. ``axes`` are those of the mean, and so of the latents; ``reason`` says why these tensors
    were chosen, ``source`` where the reading comes from, if neither from flags nor from what is usual, and ``remarks``
    what was passed over; ``preset`` is the one it is read by, if any.
    """

    file: InputFile
    header: Header
    mean: TensorInfo
    scale: TensorInfo | None
    layout: str
    axes: Axes
    parameterization: str
    reason: str
    source: str = ""
    remarks: tuple[str, ...] = ()
    preset: Preset | None = None

    @property
    def key(self) -> str:
        """The tensor's key: what its noise and its rows go by (a pair: the mean's)."""
        return self.mean.key

    @property
    def dtype(self) -> str:
        """By safetensors' name."""
        return self.mean.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the mean, and so of the latents."""
        return self.axes.shape

    @property
    def samples(self) -> int:
        return self.axes.view[0]

    def __repr__(self) -> str:
        return f"<{self.file.path}: {self.reading}; {self.samples} samples of {self.dtype}>"

    @property
    def identity(self) -> tuple[object, ...]:
        """Tells it from any other, in this run and the next: the file as it is now, and how it is read."""
        scale = self.scale.key if self.scale else None
        return self.file.path, self.header.stamp, self.key, scale, self.layout, self.parameterization

    @property
    def label(self) -> str:
        return f"{self.file.path}: tensor {self.key!r}"

    @property
    def reading(self) -> str:
        """How it is read, in one line, as every run says it."""
        return f"{self.title}: {self.manner}"

    @property
    def title(self) -> str:
        """The tensors that it is read from."""
        return f"{self.mean.key} + {self.scale.key}" if self.scale else self.key

    @property
    def manner(self) -> str:
        """How these are read."""
        count = self.axes.channels
        source = f", {self.source}" if self.source else ""
        if self.parameterization == "none":
            return f"{count} channels of latents, {self.layout}{source}"
        kind = f"{self.parameterization}, {self.layout}{source}"
        if self.scale is not None:
            return f"{count} channels, {kind}"
        return f"{2 * count} channels = {count} mean + {count} {kind}"


@dataclass(frozen=True, slots=True)
class Span:
    """Samples ``first`` to ``first + count`` of one posterior."""

    posterior: Posterior
    first: int
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data that they take."""
        posterior = self.posterior
        whole = posterior.mean.nbytes + (posterior.scale.nbytes if posterior.scale else 0)
        return whole * self.count // posterior.samples


@dataclass(frozen=True, slots=True)
class Run:
    """Samples ``first`` to ``first + count`` of a posterior, as rows of another tensor of ``rows``: from ``row`` on."""

    first: int
    count: int
    row: int
    rows: int

    def overlap(self, span: Span) -> tuple[range, int]:
        """Which of the span's samples are in the run (counted within the span), and the row of the first of them."""
        begin = max(span.first, self.first)
        end = min(span.first + span.count, self.first + self.count)
        return range(begin - span.first, max(begin, end) - span.first), self.row + begin - self.first


def state_error(path: str) -> RequestError:
    """What is said of a state where a tensor is wanted."""
    return RequestError(
        f"{path}: a state that stats wrote, and no tensors to choose from; stats --merge and --against take it"
    )


def choose(file: InputFile, header: Header, selection: Selection) -> list[Posterior]:
    """The posteriors of a file: those that ``selection`` names, or the one that cannot be mistaken.

    What flags leave open the file's metadata says, then the preset that it fits. Raises ``RequestError`` (a wrong or
    ambiguous key, a layout to be given) or ``DataError`` (a tensor that cannot be a posterior's); each names the file
    and the flag to type.
    """
    if is_state(header):
        raise state_error(file.path)
    said = said_in(header, layout=selection.layout, parameterization=selection.parameterization)
    told = selection
    if selection.parameterization is None and said.parameterization is not None:
        told = replace(selection, parameterization=said.parameterization)
    elif selection.parameterization == "none" and not selection.latents:
        told = replace(selection, latents=True)
    preset = None
    if selection.preset is not None:
        preset = preset_called(selection.preset)
    elif not selection.keys and selection.mean_key is None and not is_drawn(header):
        preset = recognised(header, told.parameterization, selection.layout or said.layout)
    if preset is None:
        found = _without_preset(file, header, told, said.layout)
    else:
        found = _by_preset(file, header, told, preset)
    if not said.remarks and said.parameterization in (None, "logvar") and said.layout is None and preset is None:
        return found
    return [
        replace(posterior, source=_source(posterior, said, preset), remarks=said.remarks, preset=preset)
        for posterior in found
    ]


def _source(posterior: Posterior, said: Said, preset: Preset | None) -> str:
    """Where a reading comes from that is not the usual one."""
    if preset is not None and None in (said.layout, said.parameterization):
        return f"by preset {preset.name}: {preset.evidence}"
    is_usual = said.layout in (None, default_layout(len(posterior.mean.shape)))
    return "" if is_usual and said.parameterization in (None, "logvar") else "by its metadata"


def _without_preset(file: InputFile, header: Header, selection: Selection, layout: str | None) -> list[Posterior]:
    """By flags and keys; ``layout`` is that of the metadata."""
    if selection.parameterization == "none":
        if not selection.latents:
            raise RequestError(_drawn_alone(header.path, "its metadata says so"))
        return _latents(file, header, selection, layout)
    if selection.mean_key is not None and selection.scale_key is not None:
        mean = _named(header, selection.mean_key, "--mean-key")
        scale = _named(header, selection.scale_key, "--logvar-key")
        return [_pair(file, header, mean, scale, selection, layout, _meaning(selection.scale_key), "named")]
    if selection.keys:
        tensors = [tensor for pattern in selection.keys for tensor in _matching(header, pattern)]
        return [
            _moments(file, header, tensor, selection, layout, "named by --key") for tensor in dict.fromkeys(tensors)
        ]
    return [_by_default(file, header, selection, layout)]


def _meaning(scale_key: str) -> str:
    """What the scale of a pair named by hand is: what its own name says, or else the flag's."""
    name = re.split(r"[./]", scale_key.lower())[-1]
    return next((meaning for word, meaning in _SCALE_NAMES.items() if re.search(rf"(^|_){word}s?$", name)), "logvar")


def _drawn(where: str, why: str, way_out: str) -> str:
    return f"{where} holds drawn latents ({why}), not moments; {way_out}"


def _drawn_alone(where: str, why: str) -> str:
    """Where nothing but latents was kept: no flag finds a posterior in them."""
    return _drawn(where, why, "stats and report read them; for moments encode again, keeping mean and log-variance")


def _by_preset(file: InputFile, header: Header, selection: Selection, preset: Preset) -> list[Posterior]:
    """Every tensor that a preset reads, as it reads it; flags go before it."""
    tensors = [tensor for _, tensor in sorted(header.tensors.items()) if preset.layout_of(tensor)]
    if not tensors:
        raise RequestError(
            f"{header.path}: not what --preset {preset.name} reads ({preset.evidence}); {describe(header)}"
        )
    kind = selection.parameterization or preset.parameterization
    if kind == "none" and not selection.latents:
        where = f"{header.path}: tensor {tensors[0].key!r}"
        raise RequestError(_drawn_alone(where, f"preset {preset.name}: {preset.evidence}"))
    told, reason = replace(selection, parameterization=kind), f"preset {preset.name}: {preset.evidence}"
    read = _as_latents if kind == "none" else _moments
    return [read(file, header, tensor, told, preset.layout_of(tensor), reason) for tensor in tensors]


def _latents(file: InputFile, header: Header, selection: Selection, layout: str | None) -> list[Posterior]:
    """Latents already drawn, which have no second half."""
    if selection.mean_key is not None:
        raise RequestError(
            "--parameterization none: latents have no scale, so --mean-key and --logvar-key name nothing"
        )
    floats = [tensor for tensor in header.tensors.values() if tensor.is_float]
    if selection.keys:
        tensors = [tensor for pattern in selection.keys for tensor in _matching(header, pattern)]
        reason = "named by --key"
    elif "latents" in header.tensors:
        tensors, reason = [header.tensors["latents"]], "its key names latents"
    elif len(floats) == 1:
        tensors, reason = floats, ONLY_FLOAT
    else:
        raise RequestError(f"{header.path}: cannot tell which tensor holds latents; {describe(header)}; use --key")
    return [_as_latents(file, header, tensor, selection, layout, reason) for tensor in dict.fromkeys(tensors)]


def _as_latents(
    file: InputFile, header: Header, tensor: TensorInfo, selection: Selection, layout: str | None, reason: str
) -> Posterior:
    # What latentkit drew several times has an axis of draws in front: so many samples more.
    draws = "b" if is_drawn(header) and "draws" in header.metadata else ""
    axes, layout = _axes(f"{header.path}: tensor {tensor.key!r}", tensor, selection.layout, layout, draws)
    return Posterior(file, header, tensor, None, layout, axes, "none", reason)


def describe(header: Header) -> str:
    """Every tensor of a file with dtype and shape, for an error that must be read at a glance."""
    if not header.tensors:
        return "it holds no tensors"
    lines = [f"{tensor.key!r} {tensor.dtype} {list(tensor.shape)}" for tensor in islice(header.tensors.values(), 20)]
    # Few of them where their names are long.
    while len(lines) > 1 and sum(map(len, lines)) > _MOST_LISTED:
        lines.pop()
    more = len(header.tensors) - len(lines)
    return "it holds " + ", ".join(lines) + (f", and {more:,} more" if more else "")


def _by_default(file: InputFile, header: Header, selection: Selection, layout: str | None) -> Posterior:
    tensors = header.tensors
    known = [key for key in MOMENTS_KEYS if key in tensors]
    if len(known) > 1:
        raise RequestError(
            f"{header.path}: {' and '.join(map(repr, known))} may both be moments; choose with --key {known[0]}; "
            f"{describe(header)}"
        )
    if known:
        return _moments(file, header, tensors[known[0]], selection, layout, "its key names moments")
    if holds_texts(header):
        raise RequestError(
            f"{header.path}: holds features of texts (its name says so), not moments; {describe(header)}; --key and "
            f"--layout read them all the same"
        )
    floats = [tensor for tensor in _candidates(header) if not _is_text(header, tensor)]
    if len(floats) == 1 and _HALF_KEYS.fullmatch(name := _name(header, floats[0].key)):
        raise RequestError(
            f"{header.path}: {name!r} is half of a pair by its name, and the other half is not in the file; put both "
            f"in one, or read it as moments with --key {floats[0].key}"
        )
    if len(floats) == 1:
        return _moments(file, header, floats[0], selection, layout, ONLY_FLOAT)
    pairs = [pair for pair in PAIRS if pair[0] in tensors and pair[1] in tensors]
    if len(pairs) == 1:
        mean, scale, meaning = pairs[0]
        if _STATISTICS.fullmatch(_stem(header)):
            raise RequestError(
                f"{header.path}: holds statistics of latents (its name says so), not moments; --mean-key {mean} and "
                f"--logvar-key {scale} read them all the same"
            )
        return _pair(file, header, tensors[mean], tensors[scale], selection, layout, meaning, "a pair by its keys")
    raise RequestError(_ambiguous(header, floats))


def _ambiguous(header: Header, floats: list[TensorInfo]) -> str:
    if not floats:
        way_out = next(filter(None, map(_put_in_order, header.tensors.values())), "")
        return f"{header.path}: no floating-point tensor to read moments from; {describe(header)}{way_out}"
    candidates = [tensor for tensor in floats if not _named_as_drawn(tensor.key)] or floats
    return (
        f"{header.path}: cannot tell which tensor holds the moments; {describe(header)}; choose with "
        f"--key {candidates[0].key} (or --mean-key and --logvar-key)"
    )


def _put_in_order(tensor: TensorInfo) -> str:
    """What to do about one whose elements do not stand in order, by its container's name for that."""
    if tensor.dtype.endswith("(strided)"):
        return "; load it with torch, and save its .contiguous()"
    return "; load it, and save np.ascontiguousarray(it)" if tensor.dtype.endswith("Fortran order") else ""


def _named_as_drawn(key: str) -> bool:
    return key not in MOMENTS_KEYS and _DRAWN_KEYS.search(key) is not None


def holds_texts(header: Header) -> bool:
    """Whether all that could be read as moments are features of texts, which caches hold beside latents."""
    candidates = _candidates(header)
    return bool(candidates) and all(_is_text(header, tensor) for tensor in candidates)


def _candidates(header: Header) -> list[TensorInfo]:
    # An empty tensor is a marker, and one of a single axis holds no channels.
    floats = [tensor for tensor in header.tensors.values() if tensor.is_float]
    return [tensor for tensor in floats if len(tensor.shape) > 1 and tensor.elements] or floats


def _is_text(header: Header, tensor: TensorInfo) -> bool:
    # Features are (words, width), or (1, words, width).
    return len(tensor.shape) < 4 and _TEXT_KEYS.fullmatch(_name(header, tensor.key)) is not None


def _name(header: Header, key: str) -> str:
    if key not in _NAMELESS.values():
        return key
    return _stem(header) if _NAMELESS.get(os.path.splitext(header.path)[1]) == key else key


def _stem(header: Header) -> str:
    return os.path.splitext(os.path.basename(header.path))[0]


def _matching(header: Header, pattern: str) -> list[TensorInfo]:
    if pattern in header.tensors:
        return [header.tensors[pattern]]
    found = [tensor for key, tensor in sorted(header.tensors.items()) if fnmatch.fnmatchcase(key, pattern)]
    if not found:
        raise RequestError(
            f"{header.path}: no tensor is called {pattern!r}{near(pattern, header.tensors)}; "
            f"{describe(header)}; choose with --key"
        )
    return found


def _named(header: Header, key: str, flag: str) -> TensorInfo:
    if key not in header.tensors:
        raise RequestError(
            f"{header.path}: no tensor is called {key!r}{near(key, header.tensors)}; "
            f"{describe(header)}; choose with {flag}"
        )
    return header.tensors[key]


def _moments(
    file: InputFile, header: Header, tensor: TensorInfo, selection: Selection, layout: str | None, reason: str
) -> Posterior:
    where = f"{header.path}: tensor {tensor.key!r}"
    if selection.parameterization is None and is_drawn(header):
        if not _named_as_drawn(tensor.key):
            raise RequestError(
                f"{where} stands beside latents that latentkit drew, and nothing says what its second half of channels "
                f"is: say which with --parameterization, or read the file that they were drawn from"
            )
        way_out = "its moments are in the file that it was drawn from; stats --parameterization none reads it"
        raise RequestError(_drawn(where, "latentkit drew it", way_out))
    if selection.parameterization is None and _named_as_drawn(_name(header, tensor.key)):
        way_out = (
            "if its second half of channels is a scale, say which with --parameterization; stats and report read "
            "latents with --parameterization none"
        )
        raise RequestError(_drawn(where, "its name says so", way_out))
    axes, layout = _axes(where, tensor, selection.layout, layout)
    if axes.channels % 2:
        raise DataError(
            f"{where} has {axes.channels} channels (shape {list(tensor.shape)}, layout {layout}), which is odd, so it "
            f"cannot be split into mean and scale; check --layout, or whether these are latents already drawn"
        )
    return Posterior(file, header, tensor, None, layout, axes.halved, selection.parameterization or "logvar", reason)


def _pair(
    file: InputFile,
    header: Header,
    mean: TensorInfo,
    scale: TensorInfo,
    selection: Selection,
    layout: str | None,
    meaning: str,
    reason: str,
) -> Posterior:
    where = f"{header.path}: tensor {mean.key!r}"
    axes, layout = _axes(where, mean, selection.layout, layout)
    if (mean.shape, mean.dtype) != (scale.shape, scale.dtype):
        raise DataError(
            f"{where} ({mean.dtype} {list(mean.shape)}) and its scale {scale.key!r} ({scale.dtype} "
            f"{list(scale.shape)}) do not match: a pair needs equal shapes and dtypes"
        )
    return Posterior(file, header, mean, scale, layout, axes, selection.parameterization or meaning, reason)


def _axes(where: str, tensor: TensorInfo, layout: str | None, by_file: str | None, draws: str = "") -> tuple[Axes, str]:
    """The axes of a tensor: by the flag's layout, the file's where it fits, or the usual, ``draws`` in front."""
    if not tensor.is_float:
        raise DataError(
            f"{where} is {tensor.dtype}, shape {list(tensor.shape)}; moments are floating-point (F64 to F8), their "
            f"elements in order{_put_in_order(tensor)}"
        )
    usual = default_layout(len(tensor.shape) - len(draws))
    fitting = by_file if by_file and len(by_file) == len(tensor.shape) else None
    layout = layout or fitting or (draws + usual if usual else None)
    if layout is None and len(tensor.shape) == 3 and not draws:
        raise RequestError(
            f"{where} has three axes, {list(tensor.shape)}, and may be read in three ways: choose --layout bcl, "
            f"--layout blc (tokens), or --layout chw (one image a tensor)"
        )
    if layout is None:
        raise DataError(f"{where} has shape {list(tensor.shape)}; give its axes with --layout, such as bchw")
    if len(layout) != len(tensor.shape):
        raise RequestError(
            f"{where} has {len(tensor.shape)} axes, {list(tensor.shape)}, and --layout {layout} names {len(layout)}"
        )
    axes = _split_axes(tensor.shape, layout)
    if 0 in axes.view[1:]:
        raise DataError(f"{where} is empty: its shape is {list(tensor.shape)}")
    return axes, layout


# A folder of a million images has few shapes.
_split_axes = lru_cache(maxsize=1024)(split_axes)
