"""Does masked equal shrunk for every architecture of keras.applications?

Each with random weights, ten classes and the smallest images that it takes, in a process of its own: the elements
found, a random 40 % of them removed, and the largest difference between the outputs of the masked and of the smaller
model, relative to the largest output. Statistics of normalizations are disturbed, so that they matter. A refusal is
reported with its reason.

Writes applications.csv and settings.json. What applications.csv holds already is not computed again.

Example: ``python experiments/applications.py --networks MobileNetV2 VGG16``
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from _lib.arguments import new_parser
from _lib.results import save_settings

SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
NASNET = 331, 224
"""Sizes of NASNetLarge and NASNetMobile; 32 for all others."""
FRACTION = 0.4


def names() -> list[str]:
    """Names of the functions of keras.applications that build an architecture."""
    import keras

    public = vars(keras.applications).items()
    return sorted(name for name, value in public if callable(value) and name[0].isupper())


def build(name: str, seed: int) -> Any:
    import keras
    import numpy as np

    keras.utils.set_random_seed(seed)
    size = {"NASNetLarge": NASNET[0], "NASNetMobile": NASNET[1]}.get(name, SIZES.get(name, 32))
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.abs(w + rng.normal(scale=0.1, size=w.shape)) for w in layer.get_weights()])
    return model


def measured(name: str, seed: int) -> dict[str, Any]:
    """One row, in this process."""
    import numpy as np

    import dropreg as dr
    from dropreg.network import MaskedNetwork

    model = build(name, seed)
    row: dict[str, Any] = {"network": name, "params": model.count_params(), "elements": 0, "refused": ""}
    start = time.perf_counter()
    try:
        elements = dr.elements(model)
        row["elements"] = len(elements)
        row["left_out"] = "; ".join(f"{layer}: {reason}" for layer, reason in elements.left_out)[:300]
        selection = dr.Selection.random(elements, FRACTION, seed=seed)
        x = np.random.default_rng(seed).random((2, *model.input_shape[1:]), dtype=np.float32)
        masked = np.asarray(MaskedNetwork(model, elements)([x], selection.kept[np.newaxis].repeat(2, axis=0)))
        small = dr.remove(model, selection).model
        found = np.asarray(small(x, training=False))
        row["params_after"] = small.count_params()
        row["difference"] = float(np.abs(found - masked).max() / np.abs(masked).max())
    except dr.errors.ModelError as error:
        row["refused"] = str(error).splitlines()[0]
    row["seconds"] = round(time.perf_counter() - start, 1)
    row["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)
    return row


def main() -> None:
    parser = new_parser(__doc__, "applications", seeds=(0,))
    parser.add_argument("--networks", nargs="+", help="names in keras.applications (default: all)")
    parser.add_argument("--measure", metavar="NETWORK", help="measure this network here and print the row as JSON")
    arguments = parser.parse_args()
    seed = arguments.seeds[0]
    if arguments.measure:
        print(json.dumps(measured(arguments.measure, seed)))
        return
    path = arguments.out / "applications.csv"
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Any] = pd.read_csv(path).to_dict("records") if path.exists() else []
    known = {row["network"] for row in rows}
    for name in ["MobileNet"] if arguments.quick else arguments.networks or names():
        if name in known:
            continue
        command = [sys.executable, str(Path(__file__).resolve()), "--measure", name, "--seeds", str(seed)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        failed = {"network": name, "refused": f"the process ended with {done.returncode}"}
        rows.append(json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else failed)
        print(rows[-1], flush=True)
        pd.DataFrame(rows).sort_values("network").to_csv(path, index=False, float_format="%.3g")
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
