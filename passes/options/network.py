"""Declare the options of a network that is built without training, without torch."""

from typing import Annotated

from .job import WeightsFile
from .ranges import Count, Pixels
from .requirements import exclude

IN_CHANS = "channels of an image, to which those of --data are converted; default: the data's, or the network's own"


class NetworkOptions(WeightsFile):
    """The options of a network that is built without training."""

    heading = "network"

    data: Annotated[str | None, "decides classes and, if not given, channels and image size"] = None
    image_size: Annotated[Pixels, "pixels per side; default: the network's own"] = None
    num_classes: Annotated[Count, "default: the network's own, or 1000"] = None
    in_chans: Annotated[Count, IN_CHANS] = None

    def __post_init__(self) -> None:
        """Check every option."""
        super().__post_init__()
        exclude(self, "data", "num_classes")
