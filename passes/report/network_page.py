"""Draw a network as its coupled groups, in one page without any request."""

from __future__ import annotations

from fxprune.coupling import Coupling

from .inspection import Inspection


def network_page(coupling: Coupling, found: Inspection) -> str:
    """Write the page."""
    return ""
