"""Write impact tables to files with everything that they say, and read them again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .._utils import check_writable, fingerprint, write_atomically
from ..errors import ParameterError, RecordError
from ._interactions import Interactions
from ._slice_table import SliceTable
from ._uncertainty import Uncertainty

if TYPE_CHECKING:
    from ._impact import ImpactTable

FORMAT = 1
_LABEL = b"dropreg.table"
_PLAIN = ("method", "outcome", "unit", "rows", "seed", "stop", "original")
_KINDS = (".parquet", ".csv")


def save_table(table: "ImpactTable", path: str | Path, *, overwrite: bool) -> None:
    """Write a table, and next to it its slices and interactions; see `ImpactTable.save`."""
    place = Path(path)
    check_writable("`path`", place, _KINDS)
    side = {name: part for name, part in _side_frames(table).items() if part is not None}
    label = _label(table) | {"parts": sorted(side)}
    label["key"] = fingerprint([label, *(frame.to_csv() for frame in (table.frame, *side.values()))])[:16]
    files = [place, *(_side(place, name) for name in side), *([_label_of_csv(place)] if place.suffix == ".csv" else [])]
    if not overwrite and (there := [file for file in files if file.exists()]):
        raise ParameterError(
            f"`path` must be a new file, received {there[0]}, which exists: choose another, or pass overwrite=True."
        )
    for name, frame in side.items():
        _write(frame, _side(place, name), {"key": label["key"]})
    if place.suffix == ".csv":
        write_atomically(place, lambda part: table.frame.to_csv(part, index=False))
        text = json.dumps(label, indent=1) + "\n"
        write_atomically(_label_of_csv(place), lambda part: part.write_text(text))
    else:
        _write(table.frame, place, label)


def load_table(path: str | Path, kind: "type[ImpactTable]") -> "ImpactTable":
    """Return what `save_table` has written; see `ImpactTable.load`."""
    place = Path(path)
    if place.suffix not in _KINDS:
        raise ParameterError(f"`path` must end in .parquet or .csv, received {str(path)!r}.")
    try:
        if place.suffix == ".csv":
            label = json.loads(_label_of_csv(place).read_text())
            frame = pd.read_csv(place, keep_default_na=False, na_values=[""])
        else:
            frame, label = _read(place)
        if label["format"] > FORMAT:
            raise ValueError(f"format {label['format']} of a later version of dropreg, newer than {FORMAT}")
        uncertainty = Uncertainty(**(label["uncertainty"] | {"df": float(label["uncertainty"]["df"])}))
        fidelity = None if label["fidelity"] is None else pd.DataFrame(label["fidelity"], dtype=float)
        fidelity = None if fidelity is None else fidelity.astype({"masks": int, "examples": int})
        parts = {name: _read_side(place, name, label["key"]) for name in label["parts"]}
        plain = {name: label[name] for name in _PLAIN}
        table = kind(frame, **plain, uncertainty=uncertainty, details=label["details"], fidelity=fidelity)
        return _with_parts(table, label, parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise RecordError(
            f"{place}: expected a table that ImpactTable.save has written, received {reason}: save it again."
        ) from error


def _label(table: "ImpactTable") -> dict[str, Any]:
    """Return everything but the frames, as JSON values."""
    fidelity = None if table.fidelity is None else json.loads(table.fidelity.to_json(orient="records"))
    plain = {name: getattr(table, name) for name in _PLAIN}
    details = {name: _plain(value) for name, value in table.details.items()}
    label = plain | {"format": FORMAT, "uncertainty": _uncertainty(table), "details": details, "fidelity": fidelity}
    if table.slices is not None:
        label["by"] = table.slices.by
        label["slices"] = [
            {
                "name": name,
                "method": part.method,
                "rows": part.rows,
                "original": part.original,
                "uncertainty": _uncertainty(part),
                "details": {key: _plain(value) for key, value in part.details.items()},
            }
            for name, part in table.slices.tables.items()
        ]
    return label


def _uncertainty(table: "ImpactTable") -> dict[str, Any]:
    return asdict(table.uncertainty) | {"df": str(table.uncertainty.df)}  # it may be infinite


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def _side_frames(table: "ImpactTable") -> dict[str, pd.DataFrame | None]:
    """Return the frames that are written beside the table, by name."""
    pairs = None
    if table.interactions is not None:
        i, j = np.triu_indices(len(table), k=1)
        found = table.interactions
        pairs = pd.DataFrame({"interaction": found.values[i, j], "std_error": found.std_error[i, j]})
    slices = None
    if table.slices is not None:
        slices = pd.concat([part.frame for part in table.slices.tables.values()], ignore_index=True)
    return {"slices": slices, "interactions": pairs}


def _with_parts(table: "ImpactTable", label: Mapping[str, Any], parts: Mapping[str, pd.DataFrame]) -> "ImpactTable":
    if "interactions" in parts:
        n, names = len(table), tuple(table.frame["element"])
        both = []
        for column, diagonal in (("interaction", 0.0), ("std_error", np.inf)):
            square = np.zeros((n, n))
            square[np.triu_indices(n, k=1)] = parts["interactions"][column]
            square += square.T
            np.fill_diagonal(square, diagonal)
            both.append(square)
        table = replace(table, interactions=Interactions(names, *both))
    if "slices" in parts:
        tables, size = {}, len(table)
        for number, one in enumerate(label["slices"]):
            frame = parts["slices"].iloc[number * size : (number + 1) * size].reset_index(drop=True)
            uncertainty = Uncertainty(**(one["uncertainty"] | {"df": float(one["uncertainty"]["df"])}))
            given = {name: one[name] for name in ("method", "rows", "original", "details")}
            bare = replace(table, fidelity=None, interactions=None, stop=None)
            tables[one["name"]] = replace(bare, frame=frame, uncertainty=uncertainty, **given)
        table = replace(table, slices=SliceTable.of(label["by"], tables))
    return table


def _side(place: Path, name: str) -> Path:
    return place.with_name(f"{place.stem}.{name}.parquet")


def _label_of_csv(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _write(frame: pd.DataFrame, path: Path, label: Mapping[str, Any]) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _LABEL: json.dumps(label).encode()})
    write_atomically(path, lambda part: pq.write_table(table, part, write_page_checksum=True))


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    table = pq.read_table(path, page_checksum_verification=True)
    if _LABEL not in (table.schema.metadata or {}):
        raise ValueError("a file without the table's description")
    return table.to_pandas(), json.loads(table.schema.metadata[_LABEL])


def _read_side(place: Path, name: str, key: str) -> pd.DataFrame:
    path = _side(place, name)
    if not path.exists():
        raise ValueError(f"no {path.name} beside it, which holds its {name}")
    frame, label = _read(path)
    if label["key"] != key:
        raise ValueError(f"{path.name} of another table")
    return frame
