"""CountedRecords: the bytes of a CSV file on their way to a parser, each record's fields counted against the header's.

The parser drops the fields that a record has too many and makes up those that it lacks, without a word: under three
names `200,1,200,7` would be another request at another time than was meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from fineserve_shapes.arrays import IntArray

LONGEST_RECORD_BYTES = 4 << 20  # what is longer is no row of a trace but a quote left open

_NEWLINE = ord("\n")


@dataclass(frozen=True, slots=True)
class WrongRecord:
    """The first record that does not fit. row: counted from 0 below the header."""

    row: int
    fields: int
    text: str


class CountedRecords:
    """A stream to read from, for a parser that takes bytes.

    separator: between fields, one byte. least: how many fields each record must have; further ones are fine where they
    are empty. Records end with LF, CRLF or CR; quotes and blank lines are taken as the parser takes them.

    wrong: the first record that does not fit, once it has been read. The parser goes on: who reads its rows knows
    whether they come so far.
    """

    def __init__(self, stream: BinaryIO, separator: bytes, least: int) -> None:
        self.wrong: WrongRecord | None = None
        self._stream = stream
        self._separator = separator
        self._least = least
        self._usual = least  # fields of most records: those with as many need no second look
        self._unfinished = b""
        self._row = -1  # of the next record; the header is none
        # a quote opens a field at its start only; a doubled one inside does not close it
        self._quoted = re.compile(rb'(?<![^\n%b])"(?:[^"]|"")*(?:"|\Z)' % re.escape(separator))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)  # what parsers ask for, to see that this is a file

    def read(self, size: int = -1) -> bytes:
        """The next bytes as they are; empty at the end."""
        data = self._stream.read(size)
        if self.wrong is None:
            self._count(data)
        return data

    def _count(self, data: bytes) -> None:
        text = self._unfinished + data
        held = b""
        if b"\r" in text:
            if data and text.endswith(b"\r"):  # the next byte says whether the line ends here
                text, held = text[:-1], b"\r"
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not data and text and not text.endswith(b"\n"):
            text += b"\n"
        plain = text if b'"' not in text else self._quoted.sub(_filled, text)
        end = plain.rfind(b"\n") + 1
        self._unfinished = text[end:] + held
        if not end:
            if len(text) > LONGEST_RECORD_BYTES:
                self.wrong = WrongRecord(self._row, 0, _shown(text[:200]))
            return
        letters = np.frombuffer(plain, dtype=np.uint8, count=end)
        records = _regular(letters, self._separator[0], self._usual)
        if records is None:
            records = self._judged(text, plain, letters)
        self._row += records

    def _judged(self, text: bytes, plain: bytes, letters: npt.NDArray[np.uint8]) -> int:
        """Look at each record with an unusual number of fields; how many records there are, without blank lines.

        plain: the text with quoted fields `_filled`. letters: its complete records.
        """
        stops: IntArray = np.flatnonzero(letters == _NEWLINE)
        starts = np.concatenate(([0], stops[:-1] + 1))
        separators = np.concatenate(([0], np.cumsum(letters == self._separator[0], dtype=np.int64)))
        odd = np.flatnonzero(separators[stops] - separators[starts] != self._usual - 1)
        blank = 0
        for number, start, stop in zip(odd.tolist(), starts[odd].tolist(), stops[odd].tolist(), strict=True):
            if not text[start:stop].strip(b" \t"):
                blank += 1
                continue
            fields = plain[start:stop].split(self._separator)
            if len(fields) < self._least or any(field.strip() for field in fields[self._least :]):
                self.wrong = WrongRecord(self._row + number - blank, len(fields), _shown(text[start:stop]))
                break
            self._usual = len(fields)
        return len(stops) - blank


def _regular(letters: npt.NDArray[np.uint8], separator: int, fields: int) -> int | None:
    """How many records there are, if each has so many fields; None if one has not. The last letter is a line's end.

    Letters become bits, 64 to a word. Over all words before a line's end, separators less (fields - 1) for each earlier
    line must make fields - 1. The lines' ends of a word are taken off one after the other, in all words at once.
    """
    padded = np.empty(-(-len(letters) // 64) * 64, dtype=bool)
    padded[len(letters) :] = False
    words = []
    for letter in (separator, _NEWLINE):
        np.equal(letters, letter, out=padded[: len(letters)])
        words.append(np.packbits(padded, bitorder="little").view(np.uint64))
    separators, ends = words
    count = np.bitwise_count(ends)
    change = np.bitwise_count(separators).astype(np.int32)
    change -= np.int32(fields - 1) * count
    left = np.cumsum(change, dtype=np.int32)
    left -= change
    one = np.uint64(1)
    for _ in range(int(count.max())):
        before = ends - one
        found = np.bitwise_count(separators & ((ends ^ before) >> one))
        if not np.all((left + found == fields - 1) | (ends == 0)):
            return None
        left -= fields - 1
        ends &= before
    return int(count.sum(dtype=np.int64))


def _filled(quoted: re.Match[bytes]) -> bytes:
    """A quoted field without separators and lines' ends; an empty one stays empty."""
    return (b"q" if quoted[0].strip(b' "') else b" ") * len(quoted[0])


def _shown(record: bytes) -> str:
    return record.decode("utf-8", "replace")
