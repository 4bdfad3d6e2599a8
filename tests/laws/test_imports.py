"""`import dropreg` is quick: TensorFlow is loaded by what runs a model, and refused there on another backend."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("statement", ["import dropreg", "from dropreg import Record, regress, designs, outcomes, cli"])
def test_tensorflow_is_loaded_where_a_model_runs(statement: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; print('tensorflow' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


ON_ANOTHER_BACKEND = """
import sys, keras
keras.config.backend = lambda: "jax"
sys.modules["tensorflow"] = None  # not installed
import dropreg as dr
for name in ("elements", "layers", "sample", "prune", "recover", "hold_zeros", "compare"):
    try:
        getattr(dr, name)
    except dr.errors.BackendError as error:
        print(error)
print(dr.Record.__name__, dr.regress.__name__)
"""


def test_another_backend_is_refused_where_tensorflow_is_needed() -> None:
    done = subprocess.run([sys.executable, "-c", ON_ANOTHER_BACKEND], capture_output=True, text=True, check=True)
    *refusals, last = done.stdout.splitlines()
    assert len(refusals) == 7
    assert set(refusals) == {
        "Keras must run on TensorFlow, received the backend 'jax': set the environment variable "
        "KERAS_BACKEND=tensorflow before Keras is imported, and load the saved model there."
    }
    assert last == "Record regress"
