"""Examples and labels, checked against a model, and the data sets that ship with dropreg.

`_inputs` checks shapes and values of x, `_labels` labels and tasks, `_weights` weights, `_streams` writes batches to
disk, `_npz` reads files for the command line, `_datasets` has the images and models that ship with the package.
"""

from typing import TYPE_CHECKING

from .._utils import lazy_names
from ._datasets import MODELS, as_inputs, fashion_mnist, load_model, model_path, read_idx
from ._examples import Data, Examples, check_apart, check_data, read_once
from ._inputs import as_list, checked_input
from ._losses import compiled_loss
from ._npz import load_npz
from ._prediction import Prediction, in_float32
from ._slices import Slices, slices_by_class, slices_of
from ._streams import stream
from ._tasks import TASKS, Task
from ._weights import class_weights

if TYPE_CHECKING:
    from ._positions import counted_positions

__all__ = [
    "MODELS",
    "TASKS",
    "Data",
    "Examples",
    "Prediction",
    "Slices",
    "Task",
    "as_inputs",
    "as_list",
    "check_apart",
    "check_data",
    "checked_input",
    "class_weights",
    "compiled_loss",
    "counted_positions",
    "fashion_mnist",
    "in_float32",
    "load_model",
    "load_npz",
    "model_path",
    "read_idx",
    "read_once",
    "slices_by_class",
    "slices_of",
    "stream",
]

__getattr__ = lazy_names(__name__, {"counted_positions": "_positions"})
"""It loads TensorFlow, so it is imported on first use."""
