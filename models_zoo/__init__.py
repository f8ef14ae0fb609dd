"""Build networks by name: timm's, torchvision's and the CIFAR networks of this folder."""

from .build import Network, build, named_device, on_device
from .downloads import check_hub, check_published
from .registry import create_model, list_models, model_input_size, published_classes
from .spec import ModelSpec, build_within, spec_from_json
