"""Options of a sampling run."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from .._utils import check_type, positive
from ..errors import ParameterError
from ._designs import Design
from ._stop_rule import StopRule
from ._unseen_masks import Fidelity

DEFAULT_FIDELITY = Fidelity()


@dataclass(frozen=True)
class Sampling:
    """How `dropreg.sample` and `dropreg.estimate` sample masks.

    Parameters
    ----------
    design : Design, optional
        Distribution of the masks. By default ``Bernoulli(rate=0.3)`` with a mask for each row, or for each 128 examples
        if the elements are weights; at rate 0.5 if they have a replacement (`dropreg.elements`).
    gradients : bool or sequence of str
        Outcomes whose gradients with respect to the masks are summed, for gradient-assisted regression: True for every
        measured outcome that has one, False for none, or their names. A backward pass costs as much as two rows and
        needs differentiable layers.
    flips : int
        How often, on average, each row is run again with one element flipped, for intervals that hold with gradients
        ("corrected" of `regress`); 0 for none. A flip costs one row-equivalent. Without gradients, in pairs of masks
        and where a mask of neurons serves several examples there are no flips.
    fidelity : Fidelity or None
        Additional masks that the regression does not use, on which its predictions are judged; by default 3 x 50 masks
        on 100 examples each. Their rows are not part of `rows`.
    stop : StopRule, optional
        Ends the run before its last row once it is precise enough, such as ``dropreg.Precision("loss", 0.001)``.
    batch_size : int, optional
        Rows of one forward pass. By default chosen from the size of the activations.
    executor : concurrent.futures.Executor, optional
        Runs the chunks, for example a ProcessPoolExecutor (with the "spawn" method) or Dask's
        ``client.get_executor()``. By default they run in this process, one after the other.

    Raises
    ------
    ParameterError
        If a value has the wrong type, or `batch_size` is not positive.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.Sampling(design=dr.designs.Bernoulli(rate=0.1), gradients=False).design
    Bernoulli(rate=0.1, examples_per_mask=1)
    """

    design: Design | None = None
    gradients: bool | Sequence[str] = True
    flips: int = 4
    fidelity: Fidelity | None = DEFAULT_FIDELITY
    stop: StopRule | None = None
    batch_size: int | None = None
    executor: Executor | None = None

    def __post_init__(self) -> None:
        if self.design is not None:
            check_type("design", self.design, Design, "pass dropreg.designs.Bernoulli(rate)")
        if self.stop is not None:
            check_type("stop", self.stop, StopRule, "pass dropreg.Precision(outcome, std_error)")
        if self.fidelity is not None:
            check_type("fidelity", self.fidelity, Fidelity, "pass dropreg.designs.Fidelity(masks, examples)")
        if self.batch_size is not None:
            positive("batch_size", self.batch_size)
        positive("flips", self.flips, least=0)
        if isinstance(self.gradients, str) or not isinstance(self.gradients, bool | Sequence):
            raise ParameterError(
                f"`gradients` must be True, False or a sequence of names of outcomes, received {self.gradients!r}: "
                "pass for example gradients=('loss',)."
            )
