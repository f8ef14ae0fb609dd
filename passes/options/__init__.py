"""What a user may ask for: type, default and range of every option; imports nothing of torch."""

from .augment import RANGES, TIMM
from .fields import ALIASES, Option, closest, options_of
from .job import DEVIATION, EPOCHS, Job, Target
from .kinds import One, metavar
from .recipe import override, read_recipe, write_recipe
from .requirements import trains_wide
from .training import AMP, TrainOptions, short_warmup
