"""The images and trained models that ship with the package, and data that comes in batches or with weights."""

from .data import MODELS, as_inputs, class_weights, fashion_mnist, load_model, model_path, read_idx, stream

__all__ = ["MODELS", "as_inputs", "class_weights", "fashion_mnist", "load_model", "model_path", "read_idx", "stream"]
