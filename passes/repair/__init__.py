"""Repair a narrow network on unlabelled inputs, to be as near to the wide one as it can."""

from .alignment import align_norms
from .fold import fold, repair
from .layers import Repair
