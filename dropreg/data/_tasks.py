"""The tasks that a model can be trained for."""

from typing import Literal, get_args

Task = Literal["classes", "binary", "multilabel", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)
