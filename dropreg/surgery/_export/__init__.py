"""Export models to files of LiteRT, ONNX and SavedModel, and run these.

`_write` checks, writes and compares; `_formats` converts, `_quantize` quantizes files of LiteRT, `_runners` loads and
runs files.
"""

# ruff: noqa: F401 (some names are for the package around)

from ._exported import Exported, run_file
from ._precisions import Precision
from ._runners import open_file
from ._write import export
