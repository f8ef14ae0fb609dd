"""Train on one process or several, and resume bit for bit, with any schedule and optimizer."""

from .answers import MOVED, Answers, answers
from .evaluate import Accuracy, evaluate, predict
from .fit import train
from .log import Callbacks, Epoch
from .loss import make_loss
from .onednn import ContiguousStrided
from .schedule import learning_rates, steps_per_epoch_of
from .state import digest
from .step import check_optimizer, make_optimizer, moved
from .trial import check_task
