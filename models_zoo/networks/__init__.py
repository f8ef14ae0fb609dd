"""Networks that neither timm nor torchvision has, and the part of torchvision's detectors that can be traced."""

from .cifar_densenet import densenet40
from .cifar_resnet import resnet20, resnet56, resnet110, resnet164
from .cifar_vgg import vgg16_cifar
from .detection import Core, core_of
