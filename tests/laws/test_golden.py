"""Records, selections and smaller models are the same numbers as before, bit for bit.

Hashes hold for one processor and one set of versions (`golden.json` names them). Elsewhere rounding differs, and the
rounded figures beside each hash are compared instead. `PYTHONPATH=tests python
tests/laws/test_golden.py` writes the file anew: do so only
where a change of the numbers is meant, and say in the commit why.
"""

import hashlib
import json
import os
import platform
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import flat
import keras
import numpy as np
import pytest
from models import build, data_for

import dropreg as dr

GOLDEN = Path(__file__).with_name("golden.json")
PACKAGES = ("keras", "numpy", "scipy", "statsmodels", "tensorflow")
NAMES = ("mlp", "cnn")


def environment() -> dict[str, str]:
    """The processor, its vector instructions and the versions, on which rounding depends."""
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in described.splitlines() if ":" in line)
    entries = {name.strip(): value.strip() for name, value in lines.items()}
    vectors = sorted(flag for flag in entries.get("flags", "").split() if flag.startswith(("avx", "amx", "fma")))
    processor = f"{entries.get('vendor_id', platform.machine())} {' '.join(vectors)}"
    return {"processor": processor} | {name: version(name) for name in PACKAGES}


def digest(*arrays: Any) -> str:
    """A hash of the bytes of all arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]


def entry(*arrays: Any) -> dict[str, Any]:
    """The hash and figures that survive another rounding: the sizes and root mean squares of all arrays."""
    scales = [float(np.sqrt(np.mean(np.square(np.asarray(array, np.float64))))) for array in arrays if np.size(array)]
    return {"hash": digest(*arrays), "scales": [float(f"{scale:.6g}") for scale in scales]}


@cache
def measured(name: str) -> dict[str, dict[str, Any]]:
    """One entry for each of a record, a table, two selections and a pruned, distilled model."""
    model = build(name)
    data = data_for(model, 64)
    elements = dr.elements(model)
    record = flat.sample(model, data, elements, rows=1024, outcomes=("accuracy", "loss"), gradients=("loss",))
    chunks = list(record.chunks())
    table = dr.regress(record, outcome="loss")
    exact = dr.regress(record, outcome="accuracy")
    deleted = flat.anneal(model, data, elements, fraction=0.4, rounds=6)
    merged = flat.anneal_path(model, data, elements, fractions=(0.3, 0.5), rounds=6, ablation="merged")
    keras.utils.set_random_seed(0)
    smaller = dr.remove(model, merged.selections[-1], data=data, recovery="distill").model
    return {
        "record": entry(
            *(getattr(chunk, field) for chunk in chunks for field in ("masks", "examples", "outcomes", "effects"))
        ),
        "table": entry(table.impact, table.std_error),
        "ols": entry(exact.impact, exact.std_error),
        "annealed for deletion": entry(deleted.kept),
        "annealed for merging": entry(*(selection.kept for selection in merged.selections), merged.to_impact().impact),
        "pruned and distilled": entry(*smaller.get_weights()),
    }


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_recorded_before(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    found = measured(name)
    assert found.keys() == golden["models"][name].keys()
    for what, expected in golden["models"][name].items():
        if golden["environment"] == environment():
            assert found[what]["hash"] == expected["hash"], f"{what} of {name} changed"
        np.testing.assert_allclose(found[what]["scales"], expected["scales"], rtol=0.05, err_msg=f"{what} of {name}")


if __name__ == "__main__":
    written = {"environment": environment(), "models": {name: measured(name) for name in NAMES}}
    GOLDEN.write_text(json.dumps(written, indent=1) + "\n")
    sys.stdout.write(GOLDEN.read_text())
