"""Print every table of the project in the same form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: str = "",
    columns: int | None = None,
    spare: Sequence[str] = (),
) -> str:
    """Format a text table with a line under the header.

    Args:
        header: n column names.
        rows: each with n cells; a cell is printed with ``str``, a float with four significant digits.
        right: the names of the columns to align to the right, separated by spaces.
        columns: most characters in a line, for the sake of which spare columns are left out; None: any number.
        spare: names of such columns; the first one goes first, and a line below says so.
    """
    cells, header, gone = [[_text(cell) for cell in row] for row in rows], [*header], list[str]()
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header))]
    for name in spare:
        if columns is not None and name in header and sum(widths) + 2 * len(widths) - 2 > columns:
            place = header.index(name)
            del header[place], widths[place]
            for row in cells:
                del row[place]
            gone.append(name)
    to_right = set(right.split())

    def line(row: Sequence[str]) -> str:
        parts = (
            cell.rjust(width) if name in to_right else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        )
        return "  ".join(parts).rstrip()

    lines = [line(header), "  ".join("-" * width for width in widths), *map(line, cells)]
    return "\n".join([*lines, *([f"(no room for {' and '.join(gone)})"] if gone else [])])


def _text(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
