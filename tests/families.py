"""Transformers of KerasHub at tiny sizes; importing this needs KerasHub."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

keras_hub: Any = importlib.import_module("keras_hub")
ENCODER: dict[str, Any] = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 16,
    "intermediate_dim": 24,
}
GROUPED: dict[str, Any] = {
    **{name: ENCODER[name] for name in ("vocabulary_size", "num_layers", "hidden_dim", "intermediate_dim")},
    "num_query_heads": 4,
    "num_key_value_heads": 2,
}
LENGTH: dict[str, Any] = {"max_sequence_length": 12}
MIXTURE: dict[str, Any] = {"head_dim": 4, "moe_intermediate_dim": 8, "num_experts": 4, "top_k": 2}
SOUND: dict[str, Any] = {"num_mels": 8, "max_encoder_sequence_length": 20, "max_decoder_sequence_length": 12}


def causal(name: str, **settings: Any) -> Callable[[], Any]:
    backbone, task = (getattr(keras_hub.models, f"{name}{part}") for part in ("Backbone", "CausalLM"))
    return lambda: task(backbone=backbone(**settings), preprocessor=None)


FAMILIES: dict[str, tuple[Callable[[], Any], int, int]] = {
    "BERT": (lambda: keras_hub.models.BertBackbone(**ENCODER, **LENGTH), 48, 8),
    "RoBERTa": (lambda: keras_hub.models.RobertaBackbone(**ENCODER, **LENGTH), 48, 8),
    "DistilBERT": (lambda: keras_hub.models.DistilBertBackbone(**ENCODER, **LENGTH), 48, 8),
    "GPT-2": (causal("GPT2", **ENCODER, **LENGTH), 48, 8),
    "ViT": (
        lambda: keras_hub.models.ViTBackbone(
            image_shape=(16, 16, 3), patch_size=8, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=24
        ),
        48,
        8,
    ),
    "Gemma": (causal("Gemma", **GROUPED, head_dim=4), 24, 4),
    "Gemma 3": (causal("Gemma3", **GROUPED, head_dim=4, image_size=16, sliding_window_size=4), 48, 4),
    "Llama": (causal("Llama", **GROUPED), 48, 4),
    "Mistral": (causal("Mistral", **GROUPED), 48, 4),
    "Qwen 3": (causal("Qwen3", **GROUPED, head_dim=4), 48, 4),
    "Qwen 3 MoE": (causal("Qwen3Moe", **GROUPED, **MIXTURE), 0, 4),
    "Whisper": (lambda: keras_hub.models.WhisperBackbone(**ENCODER, **SOUND), 96, 24),
}
"""How to build a model, and its numbers of feed-forward units and of heads (or key/value groups)."""


def inputs_of(model: Any, rows: int = 5) -> list[Any]:
    rng, found = np.random.default_rng(1), []
    for tensor in model.inputs:
        shape = [rows, *(size or 8 for size in tensor.shape[1:])]
        if "mask" in tensor.name:
            x = np.ones(shape, np.int32)
            x[0, -2:] = 0
        elif "float" in tensor.dtype:
            x = rng.normal(size=shape).astype(np.float32)
        else:
            x = rng.integers(0, 2 if "segment" in tensor.name else 50, shape).astype(np.int32)
        found.append(tf.convert_to_tensor(x))
    return found
