"""C-SGD: equal gradients within a cluster and a pull to its mean, inside the user's loop."""

from .checks import check_precision
from .hook import Csgd, csgd
from .law import Momentum, check_coupled, momentum_of, solve_coupled_strength, solve_strength
from .tied import Deviation
