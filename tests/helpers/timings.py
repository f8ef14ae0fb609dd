"""Jobs that time no network, for which the wide one is exported too: most of the time of a small job."""

from __future__ import annotations


def time_nothing(patch):
    """Let every network take a millisecond."""
    from fxprune.costs import PairedTimes
    from fxprune.passes.job import measure  # loads timm, which most tests do without

    patch.setattr(measure, "alternated", lambda *_: PairedTimes(1.0, 1.0, 15))
    patch.setattr(measure._Table, "_exported_times", lambda *_: PairedTimes(1.0, 1.0, 15))
