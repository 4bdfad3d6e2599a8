"""The settings of a run, which determine its record."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .._utils import read_json
from ..errors import RecordError

SETTINGS, ELEMENTS, BASELINE, SLICES = "run.json", "elements.parquet", "baseline.parquet", "slices.parquet"
FIDELITY, STOP = "fidelity.parquet", "stop.json"
"""Files in the folder of a record, besides the chunks."""


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run; two runs with equal settings have equal records.

    Attributes
    ----------
    rows : int
        Masked forward passes that were asked for.
    seed : int
    design : dict
        Name and parameters of the design.
    outcomes : tuple of str
        Measured outcomes, in the order of the record's columns.
    greater_is_better : tuple of bool
        Direction of each outcome.
    gradients : tuple of str
        Outcomes whose gradients with respect to the masks are summed.
    task : {"classes", "binary", "multilabel", "regression"}
    n_elements, n_examples : int
    examples_per_mask, masks_per_group : int
        Attributes of the design.
    chunk_rows, batch_size : int
        Rows of a chunk and of one forward pass.
    from_logits : bool
        Whether the model's outputs are logits, not probabilities.
    model, weights, elements : str
        Hashes of the model's structure, its weights, and what the masks act on.
    configuration : dict of str to dict
        What layers and operations compute beside their weights, by name.
    data : dict of str to str
        Hashes of the inputs, the labels and so on.
    output : int
        Number of the measured output of the model.
    flips : int
        Mean number of flips in each row (`FlipSums`); 0 for none.
    by : str
        What divides the examples into slices; empty if nothing does.
    slices : tuple of str
        Names of the slices.
    gradient_unit : {"row", "mask"}
        What squares of gradients are summed over: "mask" where one mask serves a batch.
    metrics : dict of str to str
        Hashes of the code and data of the outcomes, by name.
    versions : dict of str to str
        Of Python and of the packages that compute.
    date : str
        When the run began (ISO 8601, UTC); runs of different dates are compared as equal.
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
    configuration: dict[str, dict[str, Any]]
    weights: str
    elements: str
    data: dict[str, str]
    output: int = 0
    flips: int = 0
    by: str = ""
    slices: tuple[str, ...] = ()
    gradient_unit: str = "row"
    metrics: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    date: str = field(default="", compare=False)

    @classmethod
    def read(cls, folder: Path) -> "RunSettings":
        """Return the settings of the record in a folder; raise RecordError if there is none, or a damaged one."""
        path = folder / SETTINGS
        if not path.exists():
            raise RecordError(f"folder {folder}: expected a record with {SETTINGS}, received none: check the path.")
        try:
            values = read_json(path)
            tuples = "outcomes", "greater_is_better", "gradients", "slices"
            values |= {name: tuple(values[name]) for name in tuples}
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{path}: expected the settings of a run, received {error}: sample into the same folder again to "
                "replace it."
            ) from error

    def identity(self) -> dict[str, Any]:
        """Return all settings but the number of rows and the date, as JSON values: two runs with the same are one."""
        compared = {f.name for f in fields(self) if f.compare and f.name != "rows"}
        return {name: value for name, value in asdict(self).items() if name in compared}

    def digest(self) -> str:
        """Return a hash of the identity, which all files of a record carry."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def n_chunks(self) -> int:
        return -(-self.rows // self.chunk_rows)

    def rows_in(self, chunk: int) -> int:
        """Return the number of rows of a chunk; the last chunk may be shorter."""
        return min(self.chunk_rows, self.rows - chunk * self.chunk_rows)

    def masks_in(self, chunk: int) -> int:
        """Return the number of masks of a chunk."""
        return self.rows_in(chunk) // self.examples_per_mask

    @property
    def row_cost(self) -> int:
        """Cost of one row in forward passes; a backward pass counts as two, a flip as one."""
        return 1 + 2 * len(self.gradients) + self.flips
