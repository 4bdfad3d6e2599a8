"""Layers that prepare data: by position or channel at inference, or changing what a channel is."""

from keras import layers

from .base import Carry, Mix, register
from .shape import SpatialRule

register(
    *(layers.RandomFlip, layers.RandomRotation, layers.RandomTranslation, layers.RandomZoom, layers.RandomCrop),
    *(layers.RandomContrast, layers.RandomBrightness, layers.CenterCrop),
    rule=SpatialRule(),
)
register(layers.Normalization, rule=Carry())
register(
    *(layers.CategoryEncoding, layers.Discretization, layers.Hashing, layers.HashedCrossing, layers.IntegerLookup),
    *(layers.StringLookup, layers.TextVectorization),
    rule=Mix(),
)
