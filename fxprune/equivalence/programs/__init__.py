"""Record calls, to prove that a model and its graph certainly run one program."""

from .deferral import Deferred, runs_deferred
from .history import HistoryQuestions
from .meta_run import RANK
from .program import Programs, only_the_model_asks
from .real_run import RealRun
from .watchers import TELLS, Tells
