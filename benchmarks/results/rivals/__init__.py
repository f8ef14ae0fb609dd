"""The rivals of C-SGD: removal, widths by loss, rows by Fisher information."""

from .fisher import fisher_curve, mean_squares
from .greedy import widths_by_loss
from .remove import Gone, Importance, Lasso, l1_norms, removal, remove, rows_of, weakest, weakest_of
