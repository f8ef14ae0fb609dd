"""Check one network from coupling to ONNX, and keep the results."""

from .chapter import LOW, chapter, error_left, error_text, macs_after, parameters_after, share_text
from .examination import CheckTask, Record, check, examine
from .journal import CheckJournal, known_at
from .lines import lines, read_lines
from .reasons import reasons_of
from .result import DEPTHS, CheckResult
