"""Run unlabelled inputs through captured graphs, and observe what layers read."""

from .activations import Shares, merge_value
from .contractions import Contraction, Observer
from .execution import Execution
from .grams import channel_grams, channel_points
from .inputs import MOST_INPUTS, Calibration, calibration
