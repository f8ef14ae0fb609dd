"""Group the channels of one labelled run, name the groups, and report what froze."""

from .grouping import Analysis, group_channels
