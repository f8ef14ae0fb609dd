"""Draw random networks from everything that the rules know, and check them by oracles."""

from .choices import choices_of, draw_from, network_of, shrunk
from .draw import BATCH, Drawn
from .network import Draw, Unsuited
from .oracles import TOLERANCE, Facts, Wrong, examine, random_plan
from .precision import precision
