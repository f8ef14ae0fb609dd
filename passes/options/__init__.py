"""Declare type, default and range of every option once, without importing torch."""

from .augment import Augment, Batches, Images
from .fields import ALIASES, MISSING, REMOVED, Option, field_name
from .fold import FoldJob
from .job import EPOCHS, Centripetal, Job, with_options_of
from .kinds import metavar
from .network import NetworkOptions
from .recipe import given_in_python, override, read_recipe, recipes, write_recipe
from .record import Options, options_of
from .requirements import trains_wide
from .target import MULTIPLES, RUNTIMES, Target
from .training import TrainOptions, short_warmup
