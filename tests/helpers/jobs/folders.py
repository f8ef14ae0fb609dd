"""Files of a folder, written and listed."""

from __future__ import annotations


def written(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def write(place, files):
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
