"""Rules broken on purpose."""

from __future__ import annotations


def first_columns(columns, cut):
    return columns.index_select(cut.dim, cut.kept)
