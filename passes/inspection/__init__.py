"""Describe what can be pruned, and what a plan keeps, before anything is trained."""

from .coupling import Inspection, inspect_coupling
from .facts import group_names
from .network_page import network_page
from .plan_summary import describe_plan
