"""Declare the options of folding: a merge without labels and without training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Union

from fxprune.common.addresses import has_own_weights
from fxprune.errors import OptionError

from .augment import Batches
from .job import Machine, Model, Output, Weights
from .network import IN_CHANS
from .ranges import Count, Range, interval
from .record import Options
from .requirements import EXCLUDES_OF_FOLD, asks, exclude
from .target import CLUSTER_ON_IMAGES, PlanFile, Target

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data, Loader

# As many as :func:`fxprune.fold` takes.
MOST_IMAGES = 1024


class FoldSubject(Model, kw_only=False):
    """The network to fold, and the data set whose images it is done with."""

    heading = "what and where to"

    data: Annotated[
        Union[str, "Data", tuple["Loader", "Loader"], None],
        "as of compress: fold uses training images without labels and augmentation, and measures on test images",
    ] = None


class Unlabelled(Options):
    """The options of images without labels, and of a network that no data set describes."""

    heading = "data and machine"

    inputs: Annotated[
        Sequence[str] | str | None,
        Range("files of images, or folders with such files", len),
        "instead of --data: images without labels, as files or as folders, however deep",
    ] = None
    images: Annotated[int, interval(ge=1, le=MOST_IMAGES), "largest number of images without labels to use"] = 512
    num_classes: Annotated[Count, "without --data: classes of the network; default: those of its weights, or 1000"] = (
        None
    )
    in_chans: Annotated[Count, IN_CHANS] = None


class FoldJob(Machine, Batches, Unlabelled, Weights, PlanFile, Target, Output, FoldSubject):
    """The options of :func:`fxprune.passes.job.fold_job`."""

    command = "fold"

    repair: Annotated[
        Literal["none", "statistics", "readers", "variance"] | None,
        "none: rows become means, columns sums; statistics: running statistics are estimated again; readers: weights "
        "are fitted to what the wide network's layers put out; variance: running variances are corrected from the "
        "weights, without images; default: readers, which without images are fitted on noise, or variance if the "
        "network takes no images",
    ] = None

    def __post_init__(self) -> None:
        """Check every option that does not need images or a network."""
        super().__post_init__()
        for names in EXCLUDES_OF_FOLD:
            exclude(self, *names)
        named = isinstance(self.model, str) and not has_own_weights(self.model)
        if named and self.checkpoint is None and not self.pretrained:
            raise OptionError(
                "fold trains nothing, and a network with random weights is not worth folding: give `checkpoint` or "
                "`pretrained`, or the folder of a saved network, or a trained network in Python."
            )
        if self.has_images:
            return
        for name, without in {"repair": ("none", "variance"), "cluster": ("rows",), "images": ()}.items():
            value = getattr(self, name)
            if asks(FoldJob, name, value) and value not in without:
                raise OptionError(f"`{name}: {value}` needs images without labels: give `data` or `inputs`.")

    @property
    def has_images(self) -> bool:
        """Tell whether there are images of any kind."""
        return self.data is not None or self.inputs is not None

    @property
    def clusters_by(self) -> str:
        """Return what channels are compared by: as asked, or what is best with or without images."""
        default = CLUSTER_ON_IMAGES if self.method == "kmeans" and self.has_images else "rows"
        return self.cluster or default
