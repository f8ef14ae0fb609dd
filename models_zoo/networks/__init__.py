"""Networks of our own for small images, and the traceable part of torchvision's detectors."""

from .cifar_densenet import densenet40
from .cifar_resnet import CifarResNet, resnet20, resnet56, resnet110, resnet164
from .cifar_vgg import vgg16_cifar
from .detection import Core, core_of
