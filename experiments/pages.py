"""Are the tables in docs/results those of the committed CSV files? Writes them, or checks them.

A page marks a table by two comments, and what lies between them is written by this script:

    <!-- table: anneal/summary.csv | where model = mlp | rows method: random; annealed > **annealed**
    | columns fraction | values {plain} ({plain_sd}) | digits 3 | bold max -->
    <!-- end -->

- The file (or several, separated by commas, one below the other) lies in experiments/results.
- ``where``: conditions on columns, separated by semicolons (``=`` or ``!=``).
- ``mean``: columns to average over first (for example ``seed``); ``NAME_sd`` is then the standard deviation.
- ``rows`` and ``columns``: one or more columns, separated by commas. A list behind a colon says which values, in which
  order; ``value > label`` renames one. Other values get the labels of ``LABELS``.
- ``values``: a template with the CSV's columns in braces. Without ``columns``, several ones, separated by semicolons,
  each with its header: ``{ratio_median} > ratio; {rows_per_s:,.0f} > rows a second``.
- ``digits``: decimals of fields that have no format of their own (default 3).
- ``bold``: ``max`` or ``min``, the best of each column, judged by the first field of the template.

``<!-- pages: NAME NAME -->`` lists pages, each with its sentence behind "**Finding.**". experiments/README.md is
written from the scripts' docstrings and their settings.json.

Example: ``python experiments/pages.py``; ``python experiments/pages.py --check``
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- (table|pages):(.*?)-->\n)(.*?)(<!-- end -->)", re.DOTALL)
FIELD = re.compile(r"\{([\w.]+)(?::([^}]*))?\}")
FINDING = re.compile(r"^\*\*Finding\.\*\* (.*?)\n\n", re.DOTALL | re.MULTILINE)
KEYS = ("where", "mean", "rows", "columns", "values", "digits", "bold")
FOLDERS = {"train_models": "training"}
SHOWN = ("keras", "tensorflow", "numpy")
LABELS = {
    "mlp": "MLP",
    "cnn": "CNN",
    "resnet": "residual CNN",
    "vit": "vision transformer",
    "lstm": "LSTM",
    "gru": "GRU, both directions",
    "dense": "original model",
    "loo": "leave one out, one shot",
    "obd": "OBD, one shot",
    "spread": "spread, one shot",
    "taylor": "squared first order, one shot",
    "dropout regression": "dropout regression at rate .7, one shot",
    "taylor, iterated": "squared first order, 20 steps",
    "signed taylor, iterated": "signed first order, 20 steps",
    "spread, iterated": "spread, 20 steps",
    "greedy": "greedy leave one out",
    "gates": "trained gates",
    "taylor, merged steps": "squared first order, merged in 20 steps",
    "spread, merged steps": "spread, merged in 20 steps",
    "divergence, merged steps": "spread of the divergence, merged in 20 steps",
    "annealed, forward": "annealed, forward passes only",
}


class Axis(NamedTuple):
    """The columns along one side of a table, the values that are shown, in order, and their labels."""

    names: list[str]
    values: list[Any] | None
    labels: dict[str, str]


class PageError(ValueError):
    """A block of a page that cannot be rendered."""


def number(value: float, digits: int) -> str:
    """Fixed decimals, halves rounded up."""
    rounded = Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return bare(str(rounded))


def bare(text: str) -> str:
    """A number without a zero before the point."""
    return re.sub(r"^([+-]?)0\.(?=\d)", r"\1.", text)


def label(value: Any) -> str:
    """What a row or column is called."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, float, np.number)):
        return f"{value:,.0f}" if float(value).is_integer() else bare(f"{value:g}")
    return LABELS.get(str(value), str(value))


def parse_axis(text: str, frame: pd.DataFrame) -> Axis:
    """``name, name: value; value > label``."""
    head, _, listed = text.partition(":")
    names = [name.strip() for name in head.split(",")]
    for name in names:
        if name not in frame.columns:
            raise PageError(f"expected a column of {list(frame.columns)}, received {name!r}")
    if not listed.strip():
        return Axis(names, None, {})
    values, labels = [], {}
    for item in listed.split(";"):
        value, _, renamed = (part.strip() for part in item.partition(">"))
        found = [v for v in frame[names[0]].unique() if matches(v, value)]
        if not found:
            raise PageError(f"expected a value of column {names[0]!r}, received {value!r}")
        values.append(found[0])
        labels |= {str(found[0]): renamed} if renamed else {}
    return Axis(names, values, labels)


def matches(value: Any, text: str) -> bool:
    """Whether a cell of a CSV file is what a page calls so."""
    if text == "nan":
        return bool(pd.isna(value))
    if isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_)):
        try:
            return bool(np.isclose(float(value), float(text)))
        except ValueError:
            return False
    return str(value) == text


def chosen(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows for which all conditions hold."""
    for condition in filter(None, where.split(";")):
        name, sign, value = (part.strip() for part in re.split(r"\s(!?=)\s", f" {condition.strip()} ", maxsplit=1))
        if name not in frame.columns:
            raise PageError(f"expected a column of {list(frame.columns)}, received {name!r}")
        frame = frame[[matches(v, value) == (sign == "=") for v in frame[name]]]
    return frame


def averaged(frame: pd.DataFrame, over: str, keys: list[str]) -> pd.DataFrame:
    """Means, and standard deviations as NAME_sd, over the columns `over`, one after the other."""
    names = [name.strip() for name in over.split(",")]
    for step in range(1, len(names) + 1):
        groups = frame.groupby([*keys, *names[step:]], sort=False, dropna=False)
        numbers = frame.select_dtypes("number").columns
        values = [column for column in numbers if column not in (*keys, *names) and not column.endswith("_sd")]
        frame = groups[values].mean().join(groups[values].std().add_suffix("_sd")).reset_index()
    return frame


def cell(template: str, row: pd.Series, digits: int) -> str:
    """The template with the row's values; empty where the first one is missing."""
    fields = FIELD.findall(template)
    for name, _ in fields:
        if name not in row.index:
            raise PageError(f"expected a column of {list(row.index)}, received {name!r}")
    if fields and pd.isna(row[fields[0][0]]):
        return ""

    def shown(match: re.Match[str]) -> str:
        value, form = row[match[1]], match[2]
        if pd.isna(value):
            return ""
        if form:
            return str(value) if isinstance(value, str) else bare(format(value, form))
        return label(value) if isinstance(value, (str, bool, np.bool_)) else number(float(value), digits)

    return re.sub(r"\s*(\(\)|±\s*$)", "", FIELD.sub(shown, template)).strip()


def picked(frame: pd.DataFrame, axis: Axis) -> list[tuple[Any, ...]]:
    """The keys along an axis, in order."""
    if axis.values is not None:
        rest = dict.fromkeys(tuple(row) for row in frame[axis.names[1:]].to_numpy())
        return [(value, *more) for more in rest for value in axis.values]
    keys = list(dict.fromkeys(frame[axis.names].itertuples(index=False, name=None)))
    return sorted(keys) if pd.api.types.is_numeric_dtype(frame[axis.names[0]]) else keys


def called(key: tuple[Any, ...], axis: Axis) -> str:
    return ", ".join(axis.labels.get(str(value), label(value)) for value in key)


def read(path: Path) -> pd.DataFrame:
    return pd.read_json(path) if path.suffix == ".json" else pd.read_csv(path)


def render(root: Path, text: str) -> str:
    """The Markdown table that a block asks for."""
    name, *parts = (part.strip() for part in " ".join(text.split()).split(" | "))
    asked = dict((part.split(" ", 1) + [""])[:2] for part in parts)
    if set(asked) - set(KEYS) or not {"rows", "values"} <= set(asked):
        raise PageError(f"expected rows, values and others of {KEYS}, received {sorted(asked)}")
    frame = pd.concat([read(root / "experiments" / "results" / file.strip()) for file in name.split(",")])
    frame = chosen(frame, asked.get("where", ""))
    rows = parse_axis(asked["rows"], frame)
    columns = parse_axis(asked["columns"], frame) if "columns" in asked else Axis([], None, {})
    keys = [*rows.names, *columns.names]
    if "mean" in asked:
        frame = averaged(frame, asked["mean"], keys)
    digits = int(asked.get("digits", 3))
    templates = [[part.strip() for part in item.partition(" > ")[::2]] for item in asked["values"].split(";")]
    if columns.names:
        template = asked["values"].strip()
        across = [(called(key, columns), key, template) for key in picked(frame, columns)]
    else:
        across = [(header or FIELD.findall(template)[0][0], (), template) for template, header in templates]
    by_key = dict(iter(frame.groupby(keys, sort=False, dropna=False)))

    def row_of(key: tuple[Any, ...]) -> pd.Series | None:
        found = by_key.get(key)
        if found is not None and len(found) > 1:
            raise PageError(f"expected one row of {name} for {key}, received {len(found)}: add a condition or a mean")
        return None if found is None else found.iloc[0]

    lines = [(called(key, rows), key) for key in picked(frame, rows)]
    cells = [[(row_of((*key, *more)), template) for _, more, template in across] for _, key in lines]
    texts = [["" if row is None else cell(template, row, digits) for row, template in line] for line in cells]
    if "bold" in asked:
        embolden(texts, cells, asked["bold"])
    header = [" and ".join(n.replace("_", " ") for n in rows.names), *(head for head, _, _ in across)]
    table = [header, ["---"] * len(header), *([head, *line] for (head, _), line in zip(lines, texts, strict=True))]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)


def embolden(texts: list[list[str]], cells: list[list[tuple[Any, str]]], which: str) -> None:
    """Mark the best of each column, judged by the first field, ties as shown included."""
    for column in range(len(texts[0])):
        values = [
            np.nan if row is None or not texts[i][column] else float(row[FIELD.findall(template)[0][0]])
            for i, (row, template) in enumerate(line[column] for line in cells)
        ]
        best = int(np.nanargmax(values) if which == "max" else np.nanargmin(values))
        shown = texts[best][column].split(" ")[0]
        for line in texts:
            if line[column] and line[column].split(" ")[0] == shown:
                line[column] = f"**{line[column]}**"


def listed(root: Path, names: str) -> str:
    """Links to pages, each with its finding."""
    lines = []
    for name in names.split():
        text = (root / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8")
        found = FINDING.search(text)
        if found is None:
            raise PageError(f"expected a paragraph that starts with **Finding.** in {name}.md, received none")
        lines.append(f"- [{text.splitlines()[0].lstrip('# ')}]({name}.md): {' '.join(found[1].split())}\n")
    return "".join(lines)


def rewritten(root: Path, page: Path) -> str:
    """A page with its blocks as the results have them."""

    def block(match: re.Match[str]) -> str:
        try:
            made = render(root, match[3]) if match[2] == "table" else listed(root, match[3])
        except (PageError, FileNotFoundError) as error:
            raise PageError(f"{page.relative_to(root)}: {' '.join(match[1].split())}: {error}") from error
        return f"{match[1]}\n{made}\n{match[5]}"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def folder_of(script: Path) -> str | None:
    """The folder of a script's results: the second argument of `new_parser`."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "new_parser":
            return str(ast.literal_eval(node.args[1]))
    return FOLDERS.get(script.stem)


def question_of(script: Path) -> str:
    """The first line of a script's docstring."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").split("\n")[0]


def index(root: Path) -> str:
    """experiments/README.md: one row for each script."""
    rows = []
    for script in sorted((root / "experiments").glob("*.py")):
        folder = folder_of(script)
        if folder is None:
            continue
        seeds = versions = ""
        settings = root / "experiments" / "results" / folder / "settings.json"
        if settings.exists():
            known = json.loads(settings.read_text(encoding="utf-8"))
            seeds = " ".join(map(str, known["arguments"].get("seeds", [])))
            versions = ", ".join(f"{name} {known['versions'][name]}" for name in SHOWN if name in known["versions"])
        page = f"[{folder}](../docs/results/{folder}.md)" if page_of(root, folder).exists() else ""
        row = (f"`{script.name}`", question_of(script), f"`results/{folder}`", seeds, versions, page)
        rows.append(f"| {' | '.join(row)} |\n")
    return README + "".join(rows)


def page_of(root: Path, name: str) -> Path:
    return root / "docs" / "results" / f"{name}.md"


README = """# Experiments

<!-- This file is generated by pages.py from the scripts' docstrings and settings.json: do not edit it. -->

Each script has `--help`, `--seeds`, `--out` and `--quick`. It writes its tables, its `settings.json` and its figure to
`results/NAME`. [docs/results](../docs/results/index.md) describes the findings; `pages.py` writes the tables there from
the CSV files here, and `pages.py --check` verifies them. `_lib/` holds the code that scripts share, `models/` further
trainings of the shipped models (seeds 1 and 2) and two recurrent networks.

All experiments use Fashion-MNIST. Impacts and selections come from the 10,000 estimation images, which no model was
trained on; accuracy is measured on the 10,000 test images. A row is one masked forward pass of one example; a backward
pass counts as two rows. The versions are those of the last run.

| script | question | results | seeds | versions | page |
| --- | --- | --- | --- | --- | --- |
"""


def wanted(root: Path) -> Iterator[tuple[Path, str]]:
    """Every generated file or page, and what it should hold."""
    for page in sorted((root / "docs" / "results").glob("*.md")):
        yield page, rewritten(root, page)
    yield root / "experiments" / "README.md", index(root)


def stale(root: Path) -> list[Path]:
    """Pages that differ from the results, as paths relative to `root`."""
    return [
        page.relative_to(root)
        for page, text in wanted(root)
        if not page.exists() or page.read_text(encoding="utf-8") != text
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 and name pages out of date")
    arguments = parser.parse_args()
    if arguments.check:
        out_of_date = stale(ROOT)
        for page in out_of_date:
            print(f"{page} is out of date: run python experiments/pages.py")
        sys.exit(bool(out_of_date))
    for page, text in wanted(ROOT):
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
