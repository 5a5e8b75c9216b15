"""Length sources: what requests' lengths are drawn from, as the options say: recorded pairs, a prompt file, laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fineserve_shapes.arrays import IntArray
from fineserve_shapes.errors import InputError
from fineserve_shapes.text import clipped
from fineserve_shapes.workload.dataset import Entry, read_entries
from fineserve_shapes.workload.lengths import Law, Lengths, LengthSource, RecordedPairs, clip_lengths
from fineserve_shapes.workload.seeds import Purpose, rng
from fineserve_shapes.workload.sourcedigest import source_digest
from fineserve_shapes.workload.traces.selection import normalised
from fineserve_shapes.workload.traces.traceoptions import TraceOptions

ENTRIES_COUNTED = 4_000  # of a longer prompt file: counting tokens takes a millisecond an entry


@dataclass(frozen=True, slots=True)
class LengthOptions:
    """Where lengths come from. The first of these that is given: strata, request_lengths_csv, dataset, sample.

    request_lengths_csv: a trace or any file with two columns of lengths, drawn in pairs.
    strata: shares by architecture and scale (`parse_strata`); rows come from request_lengths_csv, else from the
        samples.
    dataset: a prompt file, whose entries' own lengths are drawn.
    sample: the trace to draw from otherwise. samples: a directory of traces named ARCHITECTURE_SCALE.csv.
    input_law, output_law: take the place of either side.
    trace: names of columns, and what becomes of lengths below 1 and beyond the model's context.
    seed: of what is held of a long file.
    """

    request_lengths_csv: Path | None = None
    strata: str | None = None
    dataset: Path | None = None
    sample: Path | None = None
    samples: Path | None = None
    input_law: Law | None = None
    output_law: Law | None = None
    trace: TraceOptions = TraceOptions()  # noqa: RUF009 - a frozen value
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Replaced:
    """Lengths of which either side follows a law of its own, independent of the other side."""

    lengths: Lengths | None
    input_law: Law | None
    output_law: Law | None

    def sample(self, rng: np.random.Generator, n: int) -> tuple[IntArray, IntArray]:
        """Input and output tokens of n requests, each of shape (n,)."""
        none = np.empty(0, dtype=np.int64)
        inputs, outputs = (none, none) if self.lengths is None else self.lengths.sample(rng, n)
        if self.input_law is not None:
            inputs = self.input_law.sample(rng, n)
        if self.output_law is not None:
            outputs = self.output_law.sample(rng, n)
        return inputs, outputs


@dataclass(frozen=True, slots=True)
class Stratified:
    """Each request belongs to a stratum, drawn by its share, and has lengths of that stratum.

    shares: shape (m,), summing to 1. strata: as many lengths.
    """

    shares: tuple[float, ...]
    strata: tuple[Lengths, ...]

    def sample(self, rng: np.random.Generator, n: int) -> tuple[IntArray, IntArray]:
        """Input and output tokens of n requests, each of shape (n,)."""
        inputs, outputs = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
        picked = rng.choice(len(self.shares), size=n, p=self.shares)
        for number, lengths in enumerate(self.strata):
            rows = np.flatnonzero(picked == number)
            inputs[rows], outputs[rows] = lengths.sample(rng, len(rows))
        return inputs, outputs


@dataclass(frozen=True, slots=True)
class WithinContext:
    """Lengths that fit into a model's context: what is longer is cut, or drawn again.

    beyond: "clamp" (see `clip_lengths`), "drop" (drawn again, up to fifty times, then cut), or "error".
    """

    lengths: Lengths
    max_model_len: int
    beyond: str

    def sample(self, rng: np.random.Generator, n: int) -> tuple[IntArray, IntArray]:
        """Input and output tokens of n requests, each of shape (n,)."""
        inputs, outputs = self.lengths.sample(rng, n)
        for _ in range(50 if self.beyond == "drop" else 0):
            long = np.flatnonzero(inputs + outputs > self.max_model_len)
            if not len(long):
                return inputs, outputs
            inputs[long], outputs[long] = self.lengths.sample(rng, len(long))
        clipped = clip_lengths(inputs, outputs, self.max_model_len)
        if self.beyond == "error" and clipped.outputs_cut + clipped.inputs_cut:
            row = int(np.argmax(inputs + outputs))
            raise InputError(
                f"{inputs[row]} and {outputs[row]} tokens exceed --max-model-len {self.max_model_len}"
                " (--beyond-max-model-len clamp or drop)"
            )
        return clipped.input_tokens, clipped.output_tokens


def open_lengths(options: LengthOptions, count: Callable[[str], int] | None = None) -> LengthSource:
    """The source of lengths that the options ask for.

    count: tokens of a text, for a prompt file; without it, words are counted. Raises InputError naming what is wrong,
    or what is missing.
    """
    input_law, output_law = options.input_law, options.output_law
    recorded: LengthSource | None = None
    if input_law is None or output_law is None:
        recorded = _recorded(options, count)
    identity: dict[str, object] = {
        "input": None if input_law is None else str(input_law),
        "output": None if output_law is None else str(output_law),
        "of": None if recorded is None else recorded.identity,
        "trace": options.trace.identity(),
    }
    lines = [f"{side} {law}" for side, law in (("input", input_law), ("output", output_law)) if law is not None]
    if recorded is not None:
        lines.append(recorded.line if not lines else f"the other from {recorded.line}")
    lengths: Lengths = Replaced(None if recorded is None else recorded.lengths, input_law, output_law)
    if recorded is not None and not (input_law or output_law):
        lengths = recorded.lengths
    if options.trace.max_model_len is not None:
        lengths = WithinContext(lengths, options.trace.max_model_len, options.trace.beyond_max_model_len)
    return LengthSource(lengths, identity, "lengths: " + ", ".join(lines))


def _recorded(options: LengthOptions, count: Callable[[str], int] | None) -> LengthSource:
    if options.strata is not None:
        return _stratified(options)
    if options.request_lengths_csv is not None:
        return _pairs(options.request_lengths_csv, options.trace, options.seed)
    if options.dataset is not None:
        return _dataset_pairs(options.dataset, options, count)
    if options.sample is not None:
        # the sample has the names that we gave it, whatever those of the user's files are
        own = replace(options.trace, input_length_column=None, output_length_column=None)
        return _pairs(options.sample, own, options.seed)
    raise InputError("no lengths to draw: give --request-lengths-csv, or --input-length and --output-length")


def _pairs(path: Path, options: TraceOptions, seed: int) -> LengthSource:
    from fineserve_shapes.workload.recordedpairs import read_pairs  # half a second that lengths by a law need not wait

    return read_pairs(path, options, seed)


def parse_strata(text: str) -> list[tuple[str, str, float]]:
    """Read shares, `MoE/gt100B=0.3,Dense/lt10B=0.7`: architecture, scale and share of each; shares come back summing to 1.

    Raises InputError if the text is none of this.
    """
    strata: list[tuple[str, str, float]] = []
    for part in text.split(","):
        label, equals, number = part.partition("=")
        architecture, slash, scale = label.strip().partition("/")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not (equals and slash and architecture and scale and 0 < share < math.inf):
            raise InputError(
                f"--strata takes shares by architecture and scale, such as MoE/gt100B=0.3,Dense/lt10B=0.7;"
                f" got {clipped(repr(part.strip()))}"
            )
        strata.append((architecture.strip(), scale.strip(), share))
    labels = [(normalised(architecture), normalised(scale)) for architecture, scale, _ in strata]
    if len(set(labels)) < len(labels):
        raise InputError(f"--strata names a stratum twice: {clipped(repr(text), 80)}")
    total = sum(share for _, _, share in strata)
    return [(architecture, scale, share / total) for architecture, scale, share in strata]


def _stratified(options: LengthOptions) -> LengthSource:
    assert options.strata is not None
    strata = parse_strata(options.strata)
    sources = []
    for architecture, scale, _ in strata:
        if options.request_lengths_csv is not None:
            own = replace(options.trace, architecture=architecture, scale=scale)
            sources.append(_pairs(options.request_lengths_csv, own, options.seed))
        else:
            own = replace(options.trace, input_length_column=None, output_length_column=None)
            sources.append(_pairs(_sample_of(options.samples, architecture, scale), own, options.seed))
    shares = tuple(share for _, _, share in strata)
    described = ", ".join(
        f"{share:.3g} {architecture}/{scale} ({source.line})"
        for (architecture, scale, share), source in zip(strata, sources, strict=True)
    )
    identity: dict[str, object] = {"strata": strata, "of": [source.identity for source in sources]}
    return LengthSource(Stratified(shares, tuple(source.lengths for source in sources)), identity, described)


def _sample_of(samples: Path | None, architecture: str, scale: str) -> Path:
    """The sample of a stratum, whatever the spelling of its name."""
    found = sorted(samples.glob("*.csv")) if samples is not None else []
    for path in found:
        if normalised(path.stem) == normalised(f"{architecture}_{scale}"):
            return path
    raise InputError(
        f"there is no sample of {architecture}/{scale} to draw lengths from (samples: "
        f"{', '.join(path.stem for path in found) or 'none'}); name a file with --request-lengths-csv (--strata)"
    )


def _dataset_pairs(path: Path, options: LengthOptions, count: Callable[[str], int] | None) -> LengthSource:
    """The lengths of a prompt file's entries; those without an output length are left out."""
    entries = read_entries(path)
    if options.output_law is None:
        with_output = [entry for entry in entries if entry.answer or (entry.output_length or 0) > 0]
        if not with_output:
            raise InputError(
                f"{path}: no entry has an output length: neither answers nor 'output_length' (--output-length says one)"
            )
        entries = with_output
    read = len(entries)
    if read > ENTRIES_COUNTED:
        picked = rng(options.seed, Purpose.SAMPLE_OF_TEXTS).choice(read, ENTRIES_COUNTED, replace=False)
        entries = [entries[row] for row in np.sort(picked).tolist()]
    tokens = count or (lambda text: len(text.split()))
    inputs = np.array([max(tokens(entry.text), 1) for entry in entries], dtype=np.int64)
    outputs = np.array([_output(entry, tokens) for entry in entries], dtype=np.int64)
    unit = "tokens" if count is not None else "words, for want of a tokenizer (--tokenizer)"
    line = f"pairs of {path.name}, {len(entries):,} of {read:,} entries with lengths in {unit}"
    return LengthSource(RecordedPairs(inputs, outputs), {"dataset": source_digest(path), "unit": unit[:6]}, line)


def _output(entry: Entry, tokens: Callable[[str], int]) -> int:
    return max(entry.output_length if entry.output_length is not None else tokens(entry.answer), 1)
