"""Take a sixth of the digits, for runs whose accuracy no test checks."""

from __future__ import annotations

import sklearn.datasets


def take_few_digits(patch):
    """Let ``load_digits`` return 300 of the 1,797 images, 25 or more of each class."""
    every = sklearn.datasets.load_digits

    def few(*, return_X_y):
        assert return_X_y
        return tuple(each[::6] for each in every(return_X_y=True))

    patch.setattr(sklearn.datasets, "load_digits", few)
