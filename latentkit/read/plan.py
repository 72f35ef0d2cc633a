"""Arguments -> posteriors to read, by headers alone."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from latentkit.errors import DataError, LatentkitError, RequestError
from latentkit.failures import Failures
from latentkit.read.choice import ONLY_FLOAT, Posterior, Selection, Span, choose, describe, holds_texts
from latentkit.read.header import Header, read_header
from latentkit.read.inputs import SUFFIX, InputFile, Inputs, find_inputs, given_twice
from latentkit.read.metadata import is_drawn, is_state
from latentkit.read.presets import fitting
from latentkit.read.samples import SampleChoice, choose_samples
from latentkit.text import count_of

# Keys that are read alike, each of which is still named.
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Found:
    """Posteriors in the order they are to be read, and what was left out on the way to them.

    ``read`` are all files that are an input, whichever samples were chosen, and the lists that name them: no output
    may take the place of one.
    """

    posteriors: tuple[Posterior, ...]
    spans: tuple[Span, ...]
    empty: int = 0
    drawn: int = 0
    states: int = 0
    read: tuple[str, ...] = ()
    #: Files that were passed over, so that ``posteriors`` are not all there are.
    failed: int = 0
    #: What a search of folders could not look into.
    unreadable: tuple[str, ...] = ()
    #: Files of other containers that a search found, and that hold no floating-point tensor: labels, names.
    bare: int = 0
    #: Files that a search found beside those that are read: text features, and statistics beside a preset's.
    strangers: tuple[str, ...] = ()
    #: Files that are read more than once, as more than one argument stands for them.
    twice: tuple[str, ...] = ()
    #: All that the arguments stand for, in order, whichever samples were chosen: what partners are found by.
    inputs: tuple[Posterior, ...] = ()

    @property
    def samples(self) -> int:
        return sum(span.count for span in self.spans)

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data to be read."""
        return sum(span.nbytes for span in self.spans)

    @property
    def readings(self) -> list[str]:
        """How the tensors are read, each way once; of many keys that are read alike the first, and how many more."""
        keys: dict[str, dict[str, None]] = {}
        for posterior in self.posteriors:
            keys.setdefault(posterior.manner, {})[posterior.title] = None
        lines = []
        for manner, alike in keys.items():
            titles = list(alike) if len(alike) <= _MOST_NAMED else [f"{next(iter(alike))} and {len(alike) - 1:,} more"]
            lines += [f"{title}: {manner}" for title in titles]
        return lines

    @property
    def remarks(self) -> list[str]:
        """What was passed over of metadata, each once, with the first file and how many more there are."""
        files: dict[str, list[str]] = {}
        for posterior in self.posteriors:
            for remark in posterior.remarks:
                files.setdefault(remark, []).append(posterior.file.path)
        return [
            f"{paths[0]}{f' and {len(paths) - 1:,} more' if len(paths) > 1 else ''}: {remark}"
            for remark, paths in files.items()
        ]

    @property
    def others(self) -> Counter[str]:
        """Files that a search found where no safetensors were, by suffix."""
        files = {posterior.file for posterior in self.posteriors if posterior.file.searched}
        return Counter(os.path.splitext(file.path)[1] for file in files if not file.path.endswith(SUFFIX))

    def without(self, failures: Failures) -> "Found":
        """What is left when the files that failed are passed over; raises ``DataError`` when that is nothing."""
        if not failures.found:
            return self
        posteriors = tuple(each for each in self.posteriors if each.file.path not in failures)
        spans = tuple(span for span in self.spans if span.posterior.file.path not in failures)
        if not spans:
            raise nothing_left(failures)
        inputs = tuple(each for each in self.inputs if each.file.path not in failures)
        files = {each.file.path for each in self.posteriors} - {each.file.path for each in posteriors}
        return replace(self, posteriors=posteriors, spans=spans, failed=self.failed + len(files), inputs=inputs)


def nothing_left(failures: Failures) -> DataError:
    """For a run in which no file could be processed."""
    return DataError(f"nothing is left to do: {count_of(len(failures.found), 'file')} could not be processed")


def find_posteriors(
    arguments: Iterable[str],
    selection: Selection,
    choice: SampleChoice | None = None,
    *,
    relative_to: str | None = None,
    leave_out: str | None = None,
    failures: Failures | None = None,
) -> Found:
    """Find the posteriors of all files that ``arguments`` stand for.

    A search passes over what latentkit wrote, over other containers without floating-point tensors (labels stand beside
    latents in files of their own), over what the preset of other files does not read (text features), and over the
    file or folder ``leave_out`` (a run's own output) where that lies within what is searched. Raises ``RequestError``
    or ``DataError`` for the first file that cannot be read so unless ``failures`` take it, and ``DataError`` when there
    is no sample at all.
    """
    failures = Failures() if failures is None else failures
    before = len(failures.found)
    arguments = list(arguments)
    files = find_inputs(arguments, relative_to=relative_to)
    read = [*arguments, *(argument[1:] for argument in arguments if argument.startswith("@"))]
    read += choice.lists if choice is not None else []
    posteriors: list[Posterior] = []
    drawn = []
    bare = []
    unclear = []
    own = states = 0
    for file in _with_others(files, posteriors):
        if (
            file.searched
            and leave_out is not None
            and within(file.path, leave_out)
            and not within(file.root, leave_out)
        ):
            own += 1
            read += [] if _may_be_replaced(file) else [file.path]
            continue
        with failures.passing_over(file.path):
            header = read_header(file.path)
            if file.searched and is_state(header):
                states += 1
            elif file.searched and is_drawn(header) and selection.parameterization is None:
                drawn.append((file, header))
            elif (
                file.searched
                and not file.path.endswith(SUFFIX)
                and not any(one.is_float for one in header.tensors.values())
            ):
                bare.append((file, header))
            else:
                try:
                    posteriors += choose(file, header, selection)
                except LatentkitError:
                    if not file.searched or any(not preset.doubtful for preset in fitting(header)):
                        raise
                    unclear.append((file, header))
                    continue
                read += [file.path] if file.index is None else [file.path, file.index]
    strangers = _strangers(posteriors, unclear)
    for path, error in _misfits(posteriors, [*unclear, *bare]).items():
        failures.add(path, error)
        strangers[path] = None
    if strangers:
        posteriors = [posterior for posterior in posteriors if posterior.file.path not in strangers]
        unclear = [(file, header) for file, header in unclear if file.path not in strangers]
    for file, header in sorted(unclear, key=lambda one: not fitting(one[1])):
        with failures.passing_over(file.path):
            choose(file, header, selection)
    failed = len(failures.found) - before
    if failed and not posteriors:
        raise nothing_left(failures)
    if not posteriors:
        _refuse_own([*drawn, *bare], states, files, selection)
    filled = tuple(posterior for posterior in posteriors if posterior.samples)
    if not filled:
        raise DataError(f"{files[0].path}: there are no samples in it" if files else "there are no samples")
    spans = choose_samples(filled, choice)
    if not spans:
        raise DataError(f"{filled[0].file.path}: no sample is left by --indices and --exclude")
    used = tuple(dict.fromkeys(span.posterior for span in spans))
    empty, read = len(posteriors) - len(filled), list(dict.fromkeys([*read, *failures.found]))
    return Found(
        used,
        spans,
        empty,
        len(drawn) + own,
        states,
        tuple(read),
        failed,
        files.unreadable,
        sum(file.path not in failures for file, _ in bare),
        tuple(path for path in strangers if path not in failures),
        given_twice(files),
        filled,
    )


def _with_others(files: Inputs, posteriors: Sequence[Posterior]) -> Iterator[InputFile]:
    """All files, and the other containers beside them where those hold no posteriors."""
    yield from files
    if not posteriors:
        yield from files.others


def _strangers(posteriors: Sequence[Posterior], unclear: Iterable[tuple[InputFile, Header]]) -> dict[str, None]:
    """What a search found beside what is read: features of texts, and where a preset reads some files all others that
    are weak, or that nobody can read.
    """
    if not any(posterior.preset for posterior in posteriors):
        return dict.fromkeys(sorted(file.path for file, header in unclear if posteriors and holds_texts(header)))
    return dict.fromkeys(sorted(file.path for file, _ in [*_weak(posteriors), *unclear]))


def _weak(posteriors: Iterable[Posterior]) -> list[tuple[InputFile, Header]]:
    """Files that a search found and nothing but being there speaks for."""
    some = (one for one in posteriors if one.preset is None and one.file.searched and one.reason == ONLY_FLOAT)
    return [(one.file, one.header) for one in some]


def _misfits(posteriors: Sequence[Posterior], others: Iterable[tuple[InputFile, Header]]) -> dict[str, DataError]:
    """Files by the names of what a preset reads beside them that it cannot read: damaged, and not to go missing.

    Of presets that are beyond doubt: others read any name.
    """
    presets = {one.preset.name: one.preset for one in posteriors if one.preset and not one.preset.doubtful}
    return {
        file.path: DataError(
            f"{file.path}: not what preset {preset.name} reads ({preset.evidence}), as it reads the files beside it; "
            f"{describe(header)}; make it again, or move it elsewhere"
        )
        for preset in presets.values()
        for file, header in [*others, *_weak(posteriors)]
        if preset.is_meant_for(header)
    }


def _may_be_replaced(file: InputFile) -> bool:
    """Whether a file in the output's own place is what latentkit drew, or nobody can read it."""
    try:
        return is_drawn(read_header(file.path))
    except (DataError, OSError):
        return True


def _refuse_own(
    passed: Sequence[tuple[InputFile, Header]], states: int, files: Sequence[InputFile], selection: Selection
) -> None:
    """Say why what was passed over is no input, where there is nothing else."""
    if passed:
        choose(*passed[0], selection)
    if states:
        raise DataError(f"{files[0].root}: holds nothing but what stats wrote with --state; stats --merge reads that")


def within(path: str, place: str) -> bool:
    """Whether ``path`` is ``place`` or below it, links resolved."""
    path, place = os.path.realpath(path), os.path.realpath(place)
    return path == place or path.startswith(os.path.join(place, ""))


def refuse_equal_names(posteriors: Iterable[Posterior]) -> None:
    """Raise ``RequestError`` when two inputs go by one name, or names are relative to several folders.

    Their noise would be equal, and their outputs the same file.
    """
    names: dict[tuple[str, str], Posterior] = {}
    roots: dict[str, Posterior] = {}
    for posterior in posteriors:
        name = posterior.file.name, posterior.key
        if name in names:
            if names[name].file.path == posterior.file.path:
                raise RequestError(f"{posterior.file.path}: is given twice, and its noise would be equal; give it once")
            raise RequestError(
                f"{names[name].file.path} and {posterior.file.path} have the same name, {name[0]!r}, below their "
                f"folders, so they would get equal noise; give their common parent folder, or --relative-to"
            )
        names[name] = posterior
        if not posterior.file.searched:
            roots.setdefault(posterior.file.root, posterior)
    if len(roots) > 1:
        one, other, *_ = roots.values()
        raise RequestError(
            f"{one.file.path} and {other.file.path} are files of different folders: say with --relative-to DIR which "
            f"folder their names are relative to (noise and outputs go by them)"
        )
