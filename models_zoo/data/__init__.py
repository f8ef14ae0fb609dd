"""Load images and classes by name, as one loader to train and one in a fixed order to test."""

from .calibration_inputs import read_images, unlabelled
from .dataset import Data, Loader
from .load import load_data, names_and_sizes
from .loaders import data_from_loaders
from .packages import PACKAGED
from .pairs import data_from_pairs, first_samples, samples_in
from .preprocessing import Preprocessing, preprocessing_for, preprocessing_from, preprocessing_of
from .task import CLASSIFICATION, Task
from .tensor_loader import TensorLoader
from .timm import PREFIXES
