"""The Python blocks of README.md and docs/*.md run, and links between the pages work."""

import re
from pathlib import Path

import numpy as np
import pytest

import dropreg as dr
from dropreg.pruning._annealing import _annealer, _search
from dropreg.recovery import _distill
from dropreg.scorers import _estimate

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")
SMALLER = [(r"rows=[\d_]+", "rows=2_000"), (r"rounds=\d+", "rounds=2")]
"""What a page asks for, and the little of it that suffices to run."""


@pytest.fixture
def given(tmp_path, monkeypatch):
    """What the pages presuppose, in an empty folder, with small defaults."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_estimate, "LEAST_ROWS", 2_000)
    monkeypatch.setattr(_estimate, "ROWS_PER_ELEMENT", 1)
    monkeypatch.setattr(_annealer.Annealer, "rounds_of", lambda annealer, usual: 2)
    monkeypatch.setattr(_search, "_CHECKED", 0.5)
    monkeypatch.setattr(_distill, "DISTILLATION", dr.Recovery(epochs=1, distill=1.0, mixup=0.5))
    model = dr.datasets.load_model("mlp")
    x, y = dr.datasets.fashion_mnist("estimation")
    model = dr.remove(model, dr.Selection.random(dr.elements(model), 0.9), data=(x[:400], None)).model
    x_test, y_test = dr.datasets.fashion_mnist("test")
    return {
        "model": model,
        "elements": dr.elements(model),
        "x": x[:400],
        "y": y[:400],
        "x_test": x_test[:400],
        "y_test": y_test[:400],
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, given):
    weights = given["model"].get_weights()
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        code = match[1]
        for pattern, small in SMALLER:
            code = re.sub(pattern, small, code)
        line = page.read_text(encoding="utf-8")[: match.start()].count("\n") + 1
        exec(compile("\n" * line + code, str(page), "exec"), given)
    assert all(np.array_equal(a, b) for a, b in zip(weights, given["model"].get_weights(), strict=True))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    if not (ROOT / "docs").is_dir():
        pytest.skip("source distributions have no docs")
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {path}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor[1:] in slugs, f"{page.name}: {path}{anchor}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120
