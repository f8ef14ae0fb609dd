"""Draw networks whose views state sizes that agree by chance, and run them at other sizes."""

from .network import ViewNetwork, build
from .oracle import compared
