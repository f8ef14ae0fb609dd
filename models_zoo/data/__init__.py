"""Images with their classes by name, in two loaders: one to train on, one that never shuffles to test on."""

from .dataset import Data, Loader
from .load import load_data
from .loaders import data_from_loaders
from .preprocessing import Preprocessing, preprocessing_from, preprocessing_of
