"""Networks of timm and torchvision to try: the smallest of each class, at small image sizes."""

from .classes import EntryPoint, entry_points, read_classes
from .forms import TimmForm, native_form, small_form
from .torchvision import FRAMES, PREFIX, TorchvisionForm, torchvision_form, torchvision_points
