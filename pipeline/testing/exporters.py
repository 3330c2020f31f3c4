"""What every export format keeps: see `pipeline.export.interface.Exporter`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

from pipeline.core.clock import NS
from pipeline.export.interface import Exporter
from pipeline.query.rows import CaptionRow

HOSTILE = (
    "a dog",
    'a "quoted", <b>bold</b> & striped cat',
    "two\nlines",
    "Zwölf größere Hunde 犬 🐕",
    "=1+1; DROP TABLE",
)


def sample_rows(count: int = 12) -> list[CaptionRow]:
    """Captions of one stream, ordered by start; no two of a track that follow each other say the same."""
    rows = []
    for number in range(count):
        start_ns = 1_700_000_000 * NS + number * 3 * NS
        rows.append(
            CaptionRow(
                stream="yard",
                track=number % 3 + 1,
                start_ns=start_ns,
                end_ns=start_ns + NS,
                start_s=3.0 * number,
                end_s=3.0 * number + 1,
                text=f"{HOSTILE[number % len(HOSTILE)]} {number}",
                score=0.5,
                box=(1.0, 2.0, 30.5, 40.25),
            )
        )
    return rows


class Pipe(io.RawIOBase):
    """A stream that can only be appended to, as a pipe or an upload."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self.data += part
        return len(part)


class ExporterTests:
    """Subclass it and say `exporter` and `texts`."""

    def exporter(self) -> Exporter:
        """A new exporter."""
        raise NotImplementedError

    def texts(self, data: bytes) -> list[str]:
        """The captions in a file of the format, in order, as another program would read them."""
        raise NotImplementedError

    def written(self, rows: Iterable[CaptionRow]) -> bytes:
        pipe = Pipe()
        self.exporter().write(rows, pipe)  # type: ignore[arg-type]
        assert not pipe.closed, "the stream is left open"
        return bytes(pipe.data)

    def test_a_reader_of_the_format_finds_every_caption(self) -> None:
        rows = sample_rows()
        found = self.texts(self.written(iter(rows)))
        assert [" ".join(text.split()) for text in found] == [" ".join(row.text.split()) for row in rows]

    def test_a_file_may_hold_nothing(self) -> None:
        assert self.texts(self.written(iter(()))) == []

    def test_rows_are_taken_once_and_to_the_end(self) -> None:
        taken = 0

        def rows() -> Iterator[CaptionRow]:
            nonlocal taken
            for row in sample_rows():
                taken += 1
                yield row

        self.written(rows())
        assert taken == len(sample_rows())

    def test_equal_rows_make_equal_bytes(self) -> None:
        assert self.written(sample_rows()) == self.written(sample_rows())
