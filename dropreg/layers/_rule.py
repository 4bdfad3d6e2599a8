"""What a rule is: what there is to know about one kind of layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..graph import Call, quantization_of
from ._channels import Channels, Labels
from ._projections import Heads, Projection

Kept = npt.NDArray[np.bool_]
"""Shape (channels,): True for every entry of a tensor's trailing axis that stays."""
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Cut:
    """What a layer becomes when channels are removed.

    Attributes
    ----------
    config : dict
        For ``from_config`` of the layer's class.
    weights : list of ndarray
        For ``set_weights`` of the new layer.
    """

    config: dict[str, Any]
    weights: list[Array]


@dataclass(frozen=True)
class Moments:
    """Mean and variance of every channel over examples and positions, each of shape (channels,)."""

    mean: Array
    variance: Array


class Rule:
    """How channels flow through one kind of layer, and what becomes of it when some are removed.

    Attributes
    ----------
    adds : bool
        Whether the layer sums its inputs, so that one of them can go.
    matches_moments : bool
        Whether its statistics can be set so that its output keeps mean and variance.
    """

    adds = False
    matches_moments = False

    def heads(self, layer: Any) -> Heads | None:
        """The attention heads of a layer.

        Parameters
        ----------
        layer : keras.layers.Layer

        Returns
        -------
        Heads or None
            None if it has none.
        """
        return None

    def projections(self, layer: Any) -> dict[str, Projection]:
        """Layers inside a layer that mix channels.

        Parameters
        ----------
        layer : keras.layers.Layer

        Returns
        -------
        dict of str to Projection
            By what they give, in an order in which none reads a later one.
        """
        return {}

    def units(self, layer: Any) -> tuple[int, str] | None:
        """What a layer computes along the trailing axis.

        Parameters
        ----------
        layer : keras.layers.Layer

        Returns
        -------
        (int, str) or None
            How many units, and their kind, as in `Elements.kinds`; None if it computes none.
        """
        return None

    def vocabulary(self, layer: Any) -> int | None:
        """How many numbers a layer looks up.

        Parameters
        ----------
        layer : keras.layers.Layer

        Returns
        -------
        int or None
            Its input must lie in [0, this); None if it computes with any.
        """
        return None

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        """Labels of the outputs of `call`.

        Parameters
        ----------
        call : Call
        index : int
            Position of `call` in the graph.
        inputs : list of Labels
            Labels of each input's trailing axis.
        channels : Channels
            Written to: new units, ties, pins, costs and reads.

        Returns
        -------
        list of Labels
            One for each output.
        """
        raise NotImplementedError

    def blocked(self, call: Call, kept_out: Sequence[Kept] = ()) -> str | None:
        """Why the layer of `call` cannot be cut although its channels can be followed; None if it can.

        Parameters
        ----------
        call : Call
        kept_out : sequence of Kept
            What is to stay of each output.

        Returns
        -------
        str or None
            The end of a sentence that begins with the layer.
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
        """Config and weights of the layer without the channels that go.

        Parameters
        ----------
        call : Call
            Of the original layer, which is not changed.
        kept_in, kept_out : sequence of Kept
            What stays of each input's and each output's trailing axis.

        Returns
        -------
        Cut

        Raises
        ------
        ModelError
            If channels go and the rule does not say what becomes of the layer.
        """
        if not all(kept.all() for kept in (*kept_in, *kept_out)):
            raise ModelError(
                f"layer '{call.name}' ({call.kind}) cannot be cut: {self.blocked(call)}. Exclude the layers that it "
                "reads from the elements, or pass on_blocked='keep'."
            )
        return unchanged(call)

    def cut_heads(self, call: Call, kept: Kept) -> Cut:
        """Config and weights of an attention layer with some of its heads.

        Parameters
        ----------
        call : Call
        kept : ndarray of bool, shape (heads,)
            True = stays.

        Returns
        -------
        Cut

        Raises
        ------
        ModelError
            If the rule does not say what becomes of heads.
        """
        raise ModelError(
            f"layer '{call.name}' ({call.kind}) cannot lose heads: its rule has no `cut_heads` method. Leave "
            "it out of the elements."
        )

    def finish(self, layer: Any) -> None:
        """Called once a new layer has its weights.

        Parameters
        ----------
        layer : keras.layers.Layer
            The new one.
        """

    def cut_arguments(self, call: Call, kept_in: Sequence[Kept]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the new layer's call; by default the same.

        Parameters
        ----------
        call : Call
        kept_in : sequence of Kept
            What stays of each input's trailing axis.

        Returns
        -------
        (tuple, dict)
            Positional and keyword arguments, with the old tensors in them.
        """
        return call.args, call.kwargs

    def remake(self, call: Call, config: dict[str, Any]) -> Any:
        """A new layer or operation of the same class.

        Parameters
        ----------
        call : Call
        config : dict
            As in `Cut`.

        Returns
        -------
        keras.layers.Layer or keras.Operation
        """
        return type(call.layer).from_config(config)

    def kernel_rows(self, call: Call, weights: list[Array]) -> list[Array] | None:
        """The layer's kernel as matrices that input channels are multiplied with.

        Parameters
        ----------
        call : Call
        weights : list of ndarray
            As ``get_weights`` gives them.

        Returns
        -------
        list of ndarray, each of shape (channels of a group, numbers), or None
            One for each group of input channels, all but convolutions with groups have one; None if the layer
            does not mix its input by one kernel, so that nothing can be merged into it.
        """
        return None

    def with_kernel_rows(self, call: Call, weights: list[Array], rows: list[Array]) -> list[Array]:
        """The weights with another kernel.

        Parameters
        ----------
        call : Call
        weights : list of ndarray
        rows : list of ndarray
            What `kernel_rows` reads of the result.

        Returns
        -------
        list of ndarray
            For ``set_weights``.
        """
        raise NotImplementedError

    def with_moments(self, call: Call, weights: list[Array], before: Moments, after: Moments) -> list[Array]:
        """Weights with which the output keeps its moments although the input changes its own.

        Parameters
        ----------
        call : Call
        weights : list of ndarray
        before, after : Moments
            Of the input.

        Returns
        -------
        list of ndarray
            For ``set_weights``.
        """
        raise NotImplementedError

    def of_states(self, call: Call, outputs: Sequence[Array]) -> list[Array]:
        """What is said of the outputs' trailing axes, of the states that a recurrent layer reads of itself.

        Parameters
        ----------
        call : Call
        outputs : sequence of ndarray, each of shape (channels,)

        Returns
        -------
        list of ndarray, each of shape (units,)
            One for each cell; none for other layers.
        """
        return []

    def macs(self, call: Call) -> float:
        """Multiply-adds of one call for one example in matrix products.

        Parameters
        ----------
        call : Call

        Returns
        -------
        float
            NaN where a size is unknown.
        """
        return 0.0


def unchanged(call: Call) -> Cut:
    """The layer of `call` as it is, or ModelError if it does not say how it was made."""
    layer = call.layer
    weights = layer.get_weights() if isinstance(layer, keras.layers.Layer) else []
    try:
        return Cut(layer.get_config(), weights)
    except NotImplementedError as error:
        raise ModelError(
            f"layer '{call.name}' ({call.kind}) must say how it was made, to be made anew: give the class a get_config "
            "that names all its arguments."
        ) from error
