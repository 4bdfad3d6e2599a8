"""What the outputs of a model mean."""

from typing import Literal

Task = Literal["classes", "binary", "multilabel", "regression"]
TASKS = ("classes", "binary", "multilabel", "regression")
