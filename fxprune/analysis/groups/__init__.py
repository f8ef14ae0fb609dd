"""Group the channels of one labelled run, name the groups, and report what froze.

It sees the finished ``state`` and what that holds: ``channels``, ``labels`` and ``marks``; of ``computed_weights`` the
graph.
"""

from .grouping import Analysis, group_channels
