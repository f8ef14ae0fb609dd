"""Write ``timm_classes.csv`` again."""

from __future__ import annotations

from tqdm import tqdm

from .classes import describe, entry_points, smallest, write_classes

if __name__ == "__main__":
    write_classes(smallest(describe(*each) for each in tqdm(list(entry_points()), unit="model")))
