"""One small file for a model.

`_pack` writes and reads it, `_container` says what the file looks like, `_architecture` describes and builds the model,
`_codings` stores arrays without loss, by the entropy coder in `_range_coder`.
"""

from ._pack import Packed, pack, unpack

__all__ = ["Packed", "pack", "unpack"]
