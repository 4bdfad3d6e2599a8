"""The base class of layer rules, and the types that its methods take and return."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..graph import Call, quantization_of
from ._channels import Channels, Labels
from ._projections import Array, Heads, Projection
from ._remade import is_remade, remade, settings_of

Kept = npt.NDArray[np.bool_]
"""Shape (channels,): True for every entry of a tensor's trailing axis that is kept."""


@dataclass(frozen=True)
class Cut:
    """The config and weights of a layer after channels are removed.

    Parameters
    ----------
    config : dict
        For ``from_config`` of the layer's class.
    weights : list of ndarray
        For ``set_weights`` of the new layer.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.layers.Cut({"units": 3}, []).config
    {'units': 3}
    """

    config: dict[str, Any]
    weights: list[Array]


@dataclass(frozen=True)
class Moments:
    """Mean and variance of every channel over examples and positions, each of shape (channels,)."""

    mean: Array
    variance: Array


class Rule:
    """How one kind of layer treats channels, and how to remove some of them. Subclass it for a layer of your own.

    Only `flow` must be defined, and `cut` if channels shall be removed from layers of this kind.

    Attributes
    ----------
    adds : bool
        Whether the layer sums its inputs, so that one of them can be removed.
    matches_moments : bool
        Whether `with_moments` is defined, as for BatchNormalization.

    Notes
    -----
    The same arguments occur in several methods:

    layer : keras.layers.Layer
        The original layer, which must not be changed.
    call : Call
        One call of the original layer, with its arguments, input_shapes and output_shapes.
    kept_in, kept_out : sequence of ndarray of bool, each of shape (channels,)
        For each input and each output, which entries of the trailing axis are kept (True).
    weights : list of ndarray
        As from ``layer.get_weights()``.

    Examples
    --------
    A layer that adds its two inputs, channel by channel:

    >>> import dropreg as dr, keras
    >>> class Blend(keras.layers.Layer):
    ...     def call(self, a, b):
    ...         return 0.5 * a + 0.5 * b
    >>> class BlendRule(dr.layers.Rule):
    ...     def flow(self, call, index, inputs, channels):
    ...         return [channels.tie(inputs[0], inputs[1], "it is blended with channels that cannot be dropped")]
    ...     def cut(self, call, kept_in, kept_out):
    ...         return dr.layers.unchanged(call)
    >>> dr.layers.register(Blend, rule=BlendRule())
    >>> x = keras.Input((4,))
    >>> a, b = keras.layers.Dense(3, name="a")(x), keras.layers.Dense(3, name="b")(x)
    >>> model = keras.Model(x, keras.layers.Dense(2)(Blend()(a, b)))
    >>> len(dr.elements(model))
    3
    """

    adds = False
    matches_moments = False

    def heads(self, layer: Any) -> Heads | None:
        """Return the attention heads of a layer, if it has any.

        Returns
        -------
        Heads or None
        """
        return None

    def projections(self, layer: Any) -> dict[str, Projection]:
        """Return the sublayers that mix channels.

        Returns
        -------
        dict of str to Projection
            By the name of the result, in an order in which each consumes only results of earlier ones.
        """
        return {}

    def units(self, layer: Any) -> tuple[int, str] | None:
        """Return the number and kind of units that a layer computes along the trailing axis.

        Returns
        -------
        (int, str) or None
            The kind is as in `Elements.kinds`; None if the layer computes no units.
        """
        return None

    def vocabulary(self, layer: Any) -> int | None:
        """Return the number of entries that a lookup layer has.

        Returns
        -------
        int or None
            The inputs must be integers in [0, this); None if the layer accepts any numbers.
        """
        return None

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        """Follow the channels through a call.

        Parameters
        ----------
        index : int
            Position of `call` in the graph.
        inputs : list of Labels
            Labels of each input's trailing axis.
        channels : Channels
            The method adds new units, ties, pins, costs and gates to it.

        Returns
        -------
        list of Labels
            One for each output.
        """
        raise NotImplementedError

    def blocked(self, call: Call, kept_out: Sequence[Kept] = ()) -> str | None:
        """Return why no channels can be removed from the layer although `flow` can follow them.

        Returns
        -------
        str or None
            A clause for an error message; None if they can be removed.
        """
        if type(self).cut is Rule.cut and type(self).cut_heads is Rule.cut_heads:
            return "its rule has no `cut` method"
        for layer in call.layers():
            if (mode := quantization_of(layer)) is not None:
                return f"it is quantized ({mode}): prune first, then quantize"
            if getattr(layer, "lora_enabled", False):
                return "it has a low-rank adapter: merge the adapter into its kernel first"
        return None

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        """Return the config and weights of the layer without the removed channels.

        Returns
        -------
        Cut

        Raises
        ------
        ModelError
            If channels are removed and the rule does not define this method.
        """
        if not all(kept.all() for kept in (*kept_in, *kept_out)):
            raise ModelError(
                f"layer '{call.name}' ({call.kind}) cannot be cut: {self.blocked(call)}. Exclude the layers whose "
                "outputs it consumes from the elements, or pass on_blocked='keep'."
            )
        return unchanged(call)

    def cut_heads(self, call: Call, kept: Kept) -> Cut:
        """Return the config and weights of an attention layer without the removed heads.

        Parameters
        ----------
        kept : ndarray of bool, shape (heads,)
            True = kept.

        Returns
        -------
        Cut

        Raises
        ------
        ModelError
            If the rule does not define this method.
        """
        raise ModelError(
            f"layer '{call.name}' ({call.kind}) cannot lose heads: its rule has no `cut_heads` method. Exclude "
            "it from the elements."
        )

    def finish(self, layer: Any) -> None:
        """Complete a new layer once its weights are set."""

    def cut_arguments(self, call: Call, kept_in: Sequence[Kept]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of the new layer's call; by default those of `call`.

        Returns
        -------
        (tuple, dict)
            Positional and keyword arguments, with the original's placeholders for tensors.
        """
        return call.args, call.kwargs

    def remake(self, call: Call, config: dict[str, Any]) -> Any:
        """Return a new layer or operation of the same class.

        Parameters
        ----------
        config : dict
            As in `Cut`.

        Returns
        -------
        keras.layers.Layer or keras.Operation
        """
        return remade(type(call.layer))(**config) if is_remade(call.layer) else type(call.layer).from_config(config)

    def with_moments(self, call: Call, weights: list[Array], before: Moments, after: Moments) -> list[Array]:
        """Return weights that preserve the output's moments when the input's moments change.

        Parameters
        ----------
        before, after : Moments
            Moments of the input.

        Returns
        -------
        list of ndarray
            For ``set_weights``.
        """
        raise NotImplementedError

    def of_states(self, call: Call, outputs: Sequence[Array]) -> list[Array]:
        """Select from arrays about the outputs' trailing axes the parts that concern the states of recurrent cells.

        Parameters
        ----------
        outputs : sequence of ndarray, each of shape (channels,)

        Returns
        -------
        list of ndarray, each of shape (units,)
            One for each cell; empty for layers that are not recurrent.
        """
        return []

    def macs(self, call: Call) -> float:
        """Return the multiply-adds of the matrix products in one call for one example.

        Returns
        -------
        float
            NaN if a size is unknown.
        """
        return 0.0


def unchanged(call: Call) -> Cut:
    """Return the config and weights of a layer as they are.

    Parameters
    ----------
    call : Call

    Returns
    -------
    Cut

    Raises
    ------
    ModelError
        If the layer has no ``get_config``.
    """
    layer = call.layer
    weights = layer.get_weights() if isinstance(layer, keras.layers.Layer) else []
    if is_remade(layer):
        return Cut(settings_of(layer), weights)
    try:
        return Cut(layer.get_config(), weights)
    except NotImplementedError as error:
        raise ModelError(
            f"layer '{call.name}' ({call.kind}) must say how it was made, to be made anew: give the class a get_config "
            "that names all its arguments."
        ) from error
