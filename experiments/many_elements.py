"""Tables with errors for networks of many elements: rows, seconds and memory.

Networks of `keras.applications` with random weights at --size pixels, on random images, to which batch normalization is
calibrated. Each is measured in a process
of its own: the number of filters that can be removed, rows a second, the peak of its memory, and what part of the
elements has a standard error.

Example: ``python experiments/many_elements.py --rows 2000``
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import pandas as pd
from _lib.arguments import new_parser
from _lib.results import save_settings

NETWORKS = ("MobileNetV2", "DenseNet121", "ResNet50V2")


def calibrate(model: Any, data: Any) -> None:
    """Set the moving statistics of batch normalization to those of the data, without which signals vanish."""
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.3
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    model.fit(*data, batch_size=64, epochs=1, verbose=0)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def measured(name: str, rows: int, images: int, size: int, seed: int) -> dict[str, Any]:
    """One table, in this process."""
    import keras
    import numpy as np

    import dropreg as dr

    keras.utils.set_random_seed(seed)
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10)
    rng = np.random.default_rng(seed)
    data = rng.random((images, size, size, 3), dtype=np.float32), rng.integers(0, 10, images)
    calibrate(model, data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    elements = dr.elements(model)
    found = time.perf_counter()
    table = dr.estimate(
        model, data, elements, rows=rows, sampling=dr.Sampling(fidelity=None), seed=seed, progress=False
    )
    seconds = time.perf_counter() - found
    return {
        "model": name,
        "parameters": model.count_params(),
        "elements": len(elements),
        "rows": rows,
        "seconds_elements": found - start,
        "seconds": seconds,
        "row_equivalents_per_second": 7 * rows / seconds,
        "gib_before": before,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "with_errors": float(np.isfinite(table.std_error).mean()),
        "median_error": float(np.nanmedian(table.std_error)),
    }


def main() -> None:
    parser = new_parser(__doc__, "many_elements", seeds=(0,))
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), help=f"default: {' '.join(NETWORKS)}")
    parser.add_argument("--rows", type=int, default=2_000, help="default: 2,000")
    parser.add_argument("--images", type=int, default=500, help="default: 500")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side (default: 32)")
    parser.add_argument("--one", help="measure one network here and print the result as JSON")
    arguments = parser.parse_args()
    rows, models = (64, ["MobileNetV2"]) if arguments.quick else (arguments.rows, arguments.models)
    if arguments.one:
        print(json.dumps(measured(arguments.one, rows, arguments.images, arguments.size, arguments.seeds[0])))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = []
    for name in models:
        for seed in arguments.seeds:
            options = ["--rows", rows, "--images", arguments.images, "--size", arguments.size, "--seeds", seed]
            command = [sys.executable, __file__, "--one", name, *map(str, options)]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(json.loads(run.stdout.strip().splitlines()[-1]) | {"seed": seed})
            pd.DataFrame(found).to_csv(arguments.out / "summary.csv", index=False, float_format="%.4g")
            print(pd.DataFrame(found[-1:]).to_string(index=False), flush=True)
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
