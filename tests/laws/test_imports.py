"""`import dropreg` is quick: TensorFlow is loaded by what runs a model, not by tables and records."""

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
