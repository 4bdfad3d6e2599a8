"""Refuse other backends of Keras before anything imports TensorFlow."""

import keras

from ..errors import BackendError

if (_backend := keras.config.backend()) != "tensorflow":
    raise BackendError(
        f"Keras must run on TensorFlow, received the backend '{_backend}': set the environment variable "
        "KERAS_BACKEND=tensorflow before Keras is imported, and load the saved model there."
    )
