"""Report what a run measured, and read and check its folder of results again."""

from .bench import bench
from .folded import Folded
from .inspection import Inspection, change, group_names, inspect_coupling
from .metrics import Metrics, read_metrics
from .network_page import network_page
from .planned import Planned, describe_plan
from .plot import can_draw, draw_deviation, has_deviation
from .results import Result, Row, read_result
from .verify_folder import verify_folder
