"""Check that two networks compute the same, within a given tolerance, or name what differs."""

from .batches import batched_inputs, random_batch, repeat_to
from .compare import Report, verify
from .float64 import KeepFloat64, float64_reader
from .localise import worst_group
from .outputs import named_outputs, rebuilt, relative_error
from .prove import Proof, prove, scattered
from .randomise import randomised
from .rewrite import verify_rewrite
from .tensors import differing, tensor_errors
