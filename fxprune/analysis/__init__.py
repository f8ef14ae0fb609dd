"""Find the channels of a captured graph that must merge, by one rule per ATen operator."""

from .call import Call
from .channels import Axes
from .computed_weights import CapturedGraph
from .couple import couple
from .interpreter import run_labelled
from .marks import Choices
from .origins import buffers_with_channels
from .rules import RULES, rule
from .state import AnalysisState
