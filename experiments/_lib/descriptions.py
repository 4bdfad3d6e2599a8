"""One-line descriptions of Debian packages, as labelled text."""

import subprocess

import numpy as np
import pandas as pd

SECTIONS = (
    *("admin", "fonts", "games", "graphics", "localization", "mail"),
    *("math", "net", "science", "sound", "text", "web"),
)


def packages() -> pd.DataFrame:
    """Descriptions, sections and sources of the packages that apt knows."""
    text = subprocess.run(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = []
    for entry in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in entry.splitlines() if ": " in line and line[0] != " ")
        section = fields.get("Section", "").rpartition("/")[2]
        if section in SECTIONS and "Description" in fields:
            source = fields.get("Source", fields["Package"]).split()[0]
            rows.append((fields["Description"], section, source))
    frame = pd.DataFrame(rows, columns=["text", "section", "source"])
    return frame.drop_duplicates("text").reset_index(drop=True)


def parts(frame: pd.DataFrame, sizes: dict[str, int], seed: int) -> dict[str, pd.DataFrame]:
    """Disjoint parts of these sizes; all packages of a source are in one."""
    sources = np.random.default_rng(seed).permutation(frame["source"].unique())
    order = frame.set_index("source").loc[sources].reset_index()
    starts = np.cumsum([0, *sizes.values()])
    if starts[-1] > len(order):
        raise SystemExit(f"there are {len(order)} descriptions, {starts[-1]} are needed: pass smaller sizes.")
    found = {}
    for (name, size), start in zip(sizes.items(), starts, strict=False):
        part = order.iloc[start : start + size]
        taken = {source for other in found.values() for source in other["source"]}
        found[name] = part[~part["source"].isin(taken)]
    return found
