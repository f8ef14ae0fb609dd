"""Values print as tables: one function, so that every table of the project looks the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> str:
    """Text table with a rule under the header.

    Args:
        header: column names, n of them.
        rows: each of n cells; a cell is printed with ``str``, floats with four significant digits.
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
