"""The settings that a record follows from."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunSettings:
    """All that a record follows from; two runs with equal settings have equal records.

    Attributes
    ----------
    rows : int
        Masked forward passes asked for.
    seed : int
    design : dict
        Name and parameters of the design.
    outcomes : tuple of str
        Measured outcomes, in the order of the record's columns.
    greater_is_better : tuple of bool
        Direction of each.
    gradients : tuple of str
        Outcomes whose gradients with respect to the masks were summed.
    task : str
        "classes", "binary", "multilabel" or "regression".
    n_elements, n_examples : int
    examples_per_mask, masks_per_group : int
        Of the design.
    chunk_rows, batch_size : int
        Rows of a chunk, rows of one forward pass.
    from_logits : bool
        Whether the model's outputs were taken for logits (else for probabilities).
    model, weights, data : str
        Fingerprints of the model's structure, its weights and the examples.
    output : int
        Number of the model's output that was measured.
    gradient_unit : str
        What squares of gradients are summed over: "row", or "mask" where a mask serves a batch.
    metrics : dict of str to str
        Fingerprints of the functions of `PerExample` and `PerMask` outcomes, by name.
    """

    rows: int
    seed: int
    design: dict[str, Any]
    outcomes: tuple[str, ...]
    greater_is_better: tuple[bool, ...]
    gradients: tuple[str, ...]
    task: str
    n_elements: int
    n_examples: int
    examples_per_mask: int
    masks_per_group: int
    chunk_rows: int
    batch_size: int
    from_logits: bool
    model: str
    weights: str
    data: str
    output: int = 0
    gradient_unit: str = "row"
    metrics: dict[str, str] = field(default_factory=dict)

    @property
    def n_chunks(self) -> int:
        return -(-self.rows // self.chunk_rows)

    def rows_in(self, chunk: int) -> int:
        """Rows of one chunk; the last may be shorter."""
        return min(self.chunk_rows, self.rows - chunk * self.chunk_rows)

    def masks_in(self, chunk: int) -> int:
        """Masks of one chunk."""
        return self.rows_in(chunk) // self.examples_per_mask

    @property
    def row_cost(self) -> int:
        """Forward passes that one row is worth; a backward pass counts as two."""
        return 1 + 2 * len(self.gradients)
