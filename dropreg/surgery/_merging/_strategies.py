"""The options of merging."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..._utils import check_between, positive
from ...errors import ParameterError

RIDGES = tuple(float(ridge) for ridge in 10.0 ** np.arange(-8.0, 1.5, 0.5))


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """Refit consuming layers by least squares to compensate for removed elements.

    Every layer that consumes removed channels gets the kernel and bias that best predict its original response from
    the kept channels; so do attention projections and the recurrent kernels of recurrent layers. A removed channel
    that is a multiple of a kept one is compensated for exactly. Neuron merging [1]_ uses the similarity of incoming
    weights instead; reconstructing the input of the next layer is also the idea of ThiNet [2]_.

    Parameters
    ----------
    held_out : float
        Fraction of the examples that the penalties are chosen with, strictly between 0 and 1.
    most_examples : int
        Largest number of examples that are used, drawn at random.
    batch_size : int
        Number of examples in a forward pass.
    ridges : tuple of float
        Penalties to choose from, in units of the mean second moment of the kept channels.
    predictions : bool
        Whether the last layer of a softmax classifier, of examples or of their positions, is then fitted to the
        original model's probabilities (convex, without labels), not only to its logits.

    Raises
    ------
    ParameterError
        If a parameter is out of range.

    References
    ----------
    .. [1] Kim, Kim, Kim, Lim, Sim (2020), "Neuron Merging: Compensating for Pruned Neurons", NeurIPS, section 3.
    .. [2] Luo, Wu, Lin (2017), "ThiNet: A Filter Level Pruning Method", ICCV, section 3.2.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("test")
    >>> selection = dr.Selection.random(dr.elements(model), 0.5)
    >>> merge = dr.merging.LeastSquares(ridges=(1e-4, 1e-2))
    >>> pruned = dr.remove(model, selection, data=(x[:500], None), merge=merge)
    >>> bool((pruned.merged["unexplained"] < 1).all())
    True
    """

    held_out: float = 0.2
    most_examples: int = 10_000
    batch_size: int = 250
    ridges: tuple[float, ...] = RIDGES
    predictions: bool = True

    name: ClassVar[str] = "least_squares"

    def __post_init__(self) -> None:
        check_between("held_out", self.held_out)
        for name in ("most_examples", "batch_size"):
            positive(name, getattr(self, name))
        if not self.ridges or min(self.ridges) <= 0:
            raise ParameterError(f"`ridges` must be one or more positive numbers, received {self.ridges}.")


def resolve_merge(merge: str | LeastSquares | None, has_data: bool) -> LeastSquares | None:
    """Return the options that `merge` means, None for no merging.

    Raises
    ------
    ParameterError
        If the name is unknown, or there are no data to merge with.
    """
    if merge == "none" or (merge is None and not has_data):
        return None
    if merge is not None and merge != LeastSquares.name and not isinstance(merge, LeastSquares):
        raise ParameterError(f"`merge` must be one of {LeastSquares.name}, none or a LeastSquares, received {merge!r}.")
    if not has_data:
        raise ParameterError(
            f"`merge` {LeastSquares.name!r} must have examples to learn from, received none: pass data=(x, y), or "
            "merge='none'."
        )
    return merge if isinstance(merge, LeastSquares) else LeastSquares()
