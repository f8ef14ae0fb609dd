"""Report what a run measured, and read and check its folder of results again."""

from .bench import bench
from .fold_summary import FoldSummary
from .metrics import Metrics, read_metrics
from .recording import Recording, ShownImage, reasons_of
from .results import Result, read_result
from .rows import Row
from .shares import shares_of
from .verify_folder import FolderReport, verify_data, verify_folder
from .write import draw_deviation, write_report
