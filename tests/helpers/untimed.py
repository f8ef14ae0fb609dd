"""Jobs that time no network, for which the wide one is exported too: most of the time of a small job."""

from __future__ import annotations


def time_nothing(patch):
    """Let every network take a millisecond."""
    from fxprune.passes.job import measure  # loads timm, which most tests do without

    patch.setattr(measure, "milliseconds", lambda *_: 1.0)
    patch.setattr(measure, "_exported_ms", lambda *_: 1.0)
