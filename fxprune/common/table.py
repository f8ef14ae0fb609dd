"""Print every table of the project in the same form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> str:
    """Format a text table with a line under the header.

    Args:
        header: n column names.
        rows: each with n cells; a cell is printed with ``str``, a float with four significant digits.
        right: the names of the columns to align to the right, separated by spaces.
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    to_right = set(right.split())

    def line(row: Sequence[str]) -> str:
        parts = (
            cell.rjust(width) if name in to_right else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        )
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, cells)])


def _text(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
