"""Tables of text that people bring: one row for each image, cells apart by commas, semicolons, tabs or blanks."""

import csv
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from igm.data import DataError
from igm.data.images import SUFFIXES
from igm.data.text import read_text, shown

Row = tuple[int, list[str]]  # the line of the file that it stands in, from 1, and its cells
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.0*)?")
IMAGE_COLUMNS = ("file_name", "image_id", "filename", "file", "image", "path")


@dataclass(frozen=True)
class Table:
    """A table with the name of an image in each row.

    Args:
        path: its file. names: of the columns other than the image's; empty without a header.
        files: the images (N). cells: the others (N lists). lines: the line (N) of the file that each row stands in, from 1.
    """

    path: Path
    names: list[str]
    files: list[str]
    cells: list[list[str]]
    lines: list[int]

    def place(self, row: int) -> str:
        """Where a row stands, for a message."""
        return f"{self.path}, line {self.lines[row]}"

    def numbers(self) -> np.ndarray:
        """All cells (N, columns) as whole numbers, int64.

        Raises:
            DataError: a cell is something else.
        """
        known = WholeNumbers()
        try:
            values = np.fromiter(map(known.__getitem__, itertools.chain.from_iterable(self.cells)), dtype=np.int64)
        except KeyError:
            row, column = next(
                (r, c) for r, cells in enumerate(self.cells) for c, cell in enumerate(cells) if known.get(cell) is None
            )
            self.number(row, column)
            raise
        return values.reshape(len(self.cells), -1)

    def number(self, row: int, column: int) -> int:
        """One cell as a whole number.

        Raises:
            DataError: it is something else.
        """
        cell = self.cells[row][column]
        try:
            return WholeNumbers()[cell]
        except KeyError:
            name = f"{self.names[column]} is " if self.names else ""
            raise DataError(f"{self.place(row)}: {name}{shown(cell)}, which is not a whole number; mend it") from None


class WholeNumbers(dict[str, int]):
    """Whole numbers by how they are written ("1", "-1", "1.0"); each is parsed once. KeyError for anything else."""

    def __missing__(self, cell: str) -> int:
        if not WHOLE_NUMBER.fullmatch(cell):
            raise KeyError(cell)
        self[cell] = int(cell.partition(".")[0])
        return self[cell]


def read_rows(path: Path) -> list[Row]:
    """The rows of a table that are not blank, cells stripped.

    Raises:
        DataError: it is no text, or has a quote that is not closed.
    """
    text = read_text(path)
    if "\0" in text:
        raise DataError(
            f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: a zero byte; it is no text file"
        )
    separator = find_separator(text)
    if re.match("sep=.\n", text):  # Excel's own first line
        separator, text = text[4], text[5:]
    if '"' in text:
        return read_quoted_rows(path, text, separator or " ")
    rows = [(number, line.split(separator)) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if separator is not None:  # splitting at blanks leaves none
        rows = [(number, [cell.strip() for cell in cells]) for number, cells in rows]
    return [row for row in rows if any(row[1])]


def find_separator(text: str) -> str | None:
    """The separator that stands most often in the first lines of a table, outside quotes; None for blanks."""
    lines = [re.sub('"[^"]*"', "", line) for line in text[:100_000].split("\n")[:50] if line.strip()]
    for line in lines[:2]:  # in the header, or below a count of rows
        counts = {separator: line.count(separator) for separator in ",;\t"}
        if any(counts.values()):
            return max(counts, key=lambda separator: counts[separator])
    return None


def read_quoted_rows(path: Path, text: str, separator: str) -> list[Row]:
    """As `read_rows`, where some cells stand in quotes.

    Raises:
        DataError: a quote is not closed in its line.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows, number = [], 1
    try:
        for cells in reader:
            if any("\n" in cell for cell in cells):
                raise csv.Error
            if any(cell.strip() for cell in cells):
                rows.append((number, [cell.strip() for cell in cells]))
            number = reader.line_num + 1
    except csv.Error:
        raise DataError(f"{path}, line {number}: a quote is not closed, or a cell is endless; mend it") from None
    return rows


def read_table(path: Path) -> Table:
    """Read a table with the name of an image in each row, with or without a header, and with or without a first line that
    is the count of rows, as CelebA's own files have it. A column of row numbers before the images is dropped.

    Raises:
        DataError: not text, cut short, an image twice, or a row of another length than the first.
    """
    rows = read_rows(path)
    count = (
        int(rows.pop(0)[1][0]) if rows and len(rows[0][1]) == 1 and re.fullmatch("[0-9]{1,9}", rows[0][1][0]) else None
    )
    header = rows.pop(0)[1] if rows and is_header(rows) else []
    if not rows:
        raise DataError(f"{path} has no rows; it needs one for each image")
    if count is not None and count != len(rows):
        mend = "it is cut short; unpack it again" if len(rows) < count else "mend its first line"
        raise DataError(f"{path} announces {count} rows and has {len(rows)}: {mend}")
    column, names = find_columns(header, rows)
    while names and not names[-1]:  # separators at the end of the header
        names = names[:-1]
    width = len(names) if names else len(rows[0][1]) - column - 1
    cells = [own[column + 1 :] for _, own in rows]
    for row, own in enumerate(cells):
        while len(own) > width and not own[-1]:
            own.pop()
        if len(own) != width or column >= len(rows[row][1]):
            raise DataError(f"{path}, line {rows[row][0]}: {len(own)} values, expected {width}; mend it")
    table = Table(path, names, [own[column] for _, own in rows], cells, [number for number, _ in rows])
    check_once(table.path, table.files, table.lines)
    return table


def is_named(header: Sequence[str]) -> bool:
    """Whether a header has a name for the column of images."""
    return any(name.lower() in IMAGE_COLUMNS for name in header)


def is_image(cell: str) -> bool:
    """Whether a cell looks like an image file's name."""
    return cell.lower().endswith(SUFFIXES)


def is_header(rows: Sequence[Row]) -> bool:
    """Whether the first row is a header: it has no image where later ones have some, or names the images' column."""
    first = rows[0][1]
    if is_named(first):
        return True
    if any(map(is_image, first)):
        return False
    return any(map(is_image, rows[1][1])) if len(rows) > 1 else not any(map(WHOLE_NUMBER.fullmatch, first[1:]))


def find_columns(header: list[str], rows: Sequence[Row]) -> tuple[int, list[str]]:
    """Number of the column of the images, and the header's names of the columns after it."""
    named = [c for c, name in enumerate(header) if name.lower() in IMAGE_COLUMNS]
    column = next((c for c, cell in enumerate(rows[0][1]) if is_image(cell)), named[0] if named else 0)
    if named:
        return column, header[named[0] + 1 :]
    width = max(len(cells) for _, cells in rows)
    return column, header[column + 1 :] if len(header) == width else header


def check_once(path: Path, files: Sequence[str], lines: Sequence[int], unit: str = "lines") -> None:
    """Raise DataError if two rows are of one image; `unit` says what is counted."""
    if len(set(files)) < len(files):
        first: dict[str, int] = {}
        for name, line in zip(files, lines, strict=True):
            if (other := first.setdefault(name, line)) != line:
                raise DataError(f"{path}, {unit} {other} and {line}: both are of {shown(name)}; keep one of them")
