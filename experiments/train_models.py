"""How accurate are the networks of the experiments? Trains them on the full Fashion-MNIST training set.

Trains on the first 50,000 training images; the last 10,000 stay unseen (they are the estimation
set) and the test images are only used to report accuracy. The full set is not part of the
repository: Debian's package ``dataset-fashion-mnist`` installs it under
``/usr/share/datasets/fashion-mnist``, and https://github.com/zalandoresearch/fashion-mnist
(MIT licence) links the same four files.

Example: ``python experiments/train_models.py --models mlp cnn --seeds 0 1 2 --out trained``
"""

import argparse
import gzip
import json
import os
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _lib.training import DEBIAN_FOLDER, EPOCHS, N_TRAIN, fit, full_training_set
from keras import layers

from dropreg.data import as_inputs, fashion_mnist

NEWER = {
    **dict.fromkeys(("input_axes", "output_axes", "quantization_config", "sliding_window", "renorm_clipping")),
    "use_gate": False,
    "renorm": False,
    "renorm_momentum": 0.99,
}
"""Arguments that Keras 3.12 may not know, and the values that change nothing."""


def mlp() -> keras.Model:
    """784-300-100-10 with ReLU."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(300, activation="relu", name="dense_1"),
            layers.Dense(100, activation="relu", name="dense_2"),
            layers.Dense(10, name="logits"),
        ],
        name="mlp",
    )


def cnn() -> keras.Model:
    """Three 3x3 convolutions of 32, 64 and 64 filters with max pooling, then 128 units."""
    model = keras.Sequential([keras.Input((28, 28, 1))], name="cnn")
    for index, filters in enumerate((32, 64, 64), start=1):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv_{index}"))
        model.add(layers.MaxPooling2D(name=f"pool_{index}"))
    model.add(layers.Flatten())
    model.add(layers.Dense(128, activation="relu", name="dense"))
    model.add(layers.Dense(10, name="logits"))
    return model


def _conv_bn(x: Any, filters: int, name: str, kernel: int = 3) -> Any:
    x = layers.Conv2D(filters, kernel, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def _residual_block(x: Any, filters: int, name: str) -> Any:
    shortcut = x if x.shape[-1] == filters else _conv_bn(x, filters, f"{name}_project", kernel=1)
    x = layers.ReLU(name=f"{name}_relu_1")(_conv_bn(x, filters, f"{name}_conv_1"))
    x = _conv_bn(x, filters, f"{name}_conv_2")
    return layers.ReLU(name=f"{name}_relu_2")(layers.Add(name=f"{name}_add")([shortcut, x]))


def resnet() -> keras.Model:
    """Residual network with BatchNormalization: a stem and three blocks of 32, 64 and 64 filters."""
    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU(name="stem_relu")(_conv_bn(inputs, 32, "stem"))
    x = layers.MaxPooling2D(name="pool_1")(x)
    x = _residual_block(x, 32, "block_1")
    x = layers.MaxPooling2D(name="pool_2")(x)
    x = _residual_block(x, 64, "block_2")
    x = _residual_block(x, 64, "block_3")
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="resnet")


def vit(width: int = 48, heads: int = 4, blocks: int = 3) -> keras.Model:
    """Vision transformer on 49 patches of 4x4 pixels, pre-normalization, 96 feed-forward units.

    The bias of the patch embedding has one row for each patch: it is the position embedding.
    """
    inputs = keras.Input((28, 28, 1))
    x = layers.Reshape((7, 4, 7, 4), name="patch_rows")(inputs)
    x = layers.Permute((1, 3, 2, 4), name="patch_order")(x)
    x = layers.Reshape((49, 16), name="patches")(x)
    x = layers.EinsumDense("bpc,cd->bpd", output_shape=(49, width), bias_axes="pd", name="embed")(x)
    for index in range(1, blocks + 1):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"block_{index}_norm_1")(x)
        attention = layers.MultiHeadAttention(heads, width // heads, name=f"block_{index}_attention")
        x = layers.Add(name=f"block_{index}_add_1")([x, attention(y, y)])
        y = layers.LayerNormalization(epsilon=1e-6, name=f"block_{index}_norm_2")(x)
        y = layers.Dense(2 * width, activation="gelu", name=f"block_{index}_ffn_1")(y)
        y = layers.Dense(width, name=f"block_{index}_ffn_2")(y)
        x = layers.Add(name=f"block_{index}_add_2")([x, y])
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="mean_token")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="vit")


def lstm() -> keras.Model:
    """Two layers of 64 LSTM units that read the rows of an image one after the other, then 64 units."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Reshape((28, 28)),
            layers.LSTM(64, return_sequences=True, name="lstm_1"),
            layers.LSTM(64, name="lstm_2"),
            layers.Dense(64, activation="relu", name="dense"),
            layers.Dense(10, name="logits"),
        ],
        name="lstm",
    )


def gru() -> keras.Model:
    """64 GRU units in either direction of the rows of an image, then 64 units."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Reshape((28, 28)),
            layers.Bidirectional(layers.GRU(64, name="gru"), name="directions"),
            layers.Dense(64, activation="relu", name="dense"),
            layers.Dense(10, name="logits"),
        ],
        name="gru",
    )


BUILDERS = {"mlp": mlp, "cnn": cnn, "resnet": resnet, "vit": vit, "lstm": lstm, "gru": gru}


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write unsigned bytes as a gzipped IDX file (no time stamp, so the bytes are reproducible)."""
    header = b"\x00\x00\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes(), mtime=0))


def make_readable(path: Path) -> None:
    """Take out of a model's file what only newer versions of Keras know, where it says nothing."""

    def known(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: known(v) for name, v in value.items() if name not in NEWER or v != NEWER[name]}
        return [known(v) for v in value] if isinstance(value, list) else value

    with zipfile.ZipFile(path) as file:
        parts = {part.filename: file.read(part) for part in file.infolist()}
    parts["config.json"] = json.dumps(known(json.loads(parts["config.json"]))).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)


def train(name: str, seed: int, x: np.ndarray, y: np.ndarray, epochs: int) -> keras.Model:
    """Train one architecture from scratch."""
    keras.utils.set_random_seed(seed)
    model = BUILDERS[name]()
    fit(model, x, y, epochs)
    return model


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(BUILDERS), default=sorted(BUILDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("trained"), help="folder for NAME-SEED.keras")
    parser.add_argument("--full-set", type=Path, default=DEBIAN_FOLDER, help="folder of the IDX files")
    parser.add_argument("--quick", action="store_true", help="one epoch on 5,000 images, to try it out")
    parser.add_argument("--estimation-set", action="store_true", help="also write the last 10,000 images as IDX files")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    images, labels = full_training_set(arguments.full_set)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.estimation_set:
        write_idx(arguments.out / "estimation-images-idx3-ubyte.gz", images[N_TRAIN:])
        write_idx(arguments.out / "estimation-labels-idx1-ubyte.gz", labels[N_TRAIN:])
    n_train = 5_000 if arguments.quick else N_TRAIN
    x, y = as_inputs(images[:n_train]), labels[:n_train].astype(np.int64)
    x_test, y_test = fashion_mnist("test")
    results = arguments.out / "training.json"
    rows = json.loads(results.read_text()) if results.exists() else []
    for name in arguments.models:
        for seed in arguments.seeds:
            start = time.perf_counter()
            epochs = 1 if arguments.quick else EPOCHS[name]
            model = train(name, seed, x, y, epochs)
            seconds = time.perf_counter() - start
            loss, accuracy = model.evaluate(x_test, y_test, batch_size=1000)
            plain = BUILDERS[name]()  # the same network without the optimizer's state
            plain.set_weights(model.get_weights())
            plain.save(arguments.out / f"{name}-{seed}.keras")
            make_readable(arguments.out / f"{name}-{seed}.keras")
            rows = [row for row in rows if (row["model"], row["seed"]) != (name, seed)]
            rows.append(
                {
                    "model": name,
                    "seed": seed,
                    "epochs": epochs,
                    "parameters": model.count_params(),
                    "test_accuracy": round(accuracy, 4),
                    "test_loss": round(loss, 4),
                    "seconds": round(seconds, 1),
                }
            )
            print(rows[-1], flush=True)
            results.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
