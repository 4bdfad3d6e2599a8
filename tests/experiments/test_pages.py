"""The pages in docs/results say what the CSV files in experiments/results say."""

import ast
import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [path for path in sorted((ROOT / "experiments").glob("*.py")) if "__main__" in path.read_text("utf-8")]
PRIVATE = ("what goes", "what stays", "what is left", "goes on", "as it stands", "learn along", "learns along")
PRIVATE += ("makes up for", "make up for", "whole network", "whole model")


def load_pages():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "experiments" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = load_pages()


@pytest.fixture
def root(tmp_path):
    """A small copy: one page, its results, one script."""
    for name in ("docs/results/memory.md", "experiments/results/memory", "experiments/memory.py"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    for path, text in pages.wanted(tmp_path):
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_pages_say_what_the_results_say():
    assert [str(path) for path in pages.stale(ROOT)] == [], "run python experiments/pages.py"


def test_a_changed_number_is_found(root):
    assert pages.stale(root) == []
    table = root / "experiments" / "results" / "memory" / "memory.csv"
    table.write_text(table.read_text().replace("1029.1", "1129.1"))
    assert pages.stale(root) == [Path("docs/results/memory.md")]


def test_a_changed_page_is_found(root):
    page = root / "docs" / "results" / "memory.md"
    page.write_text(page.read_text(encoding="utf-8").replace("| 1029 |", "| 1030 |"), encoding="utf-8")
    assert pages.stale(root) == [Path("docs/results/memory.md")]


def test_a_changed_question_is_found(root):
    script = root / "experiments" / "memory.py"
    script.write_text(script.read_text().replace("Does peak memory grow", "Does memory grow"))
    assert pages.stale(root) == [Path("experiments/README.md")]


def test_a_block_that_names_no_column_is_refused_with_page_and_column(root):
    page = root / "docs" / "results" / "memory.md"
    page.write_text(page.read_text(encoding="utf-8").replace("rows rows", "rows lines"), encoding="utf-8")
    with pytest.raises(pages.PageError, match=r"memory\.md.*received 'lines'"):
        pages.stale(root)


def write(root, text):
    path = root / "experiments" / "results" / "a.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_a_table_has_means_deviations_labels_and_the_best_in_bold(tmp_path):
    write(tmp_path, "method,seed,fraction,score\nobd,0,0.5,0.2\nobd,1,0.5,0.4\ngates,0,0.5,0.1\ngates,1,0.5,0.1\n")
    asked = "mean seed | rows method: gates; obd > ours | columns fraction | values {score} ({score_sd}) | bold max"
    made = pages.render(tmp_path, f"a.csv | {asked}")
    assert made == ("| method | .5 |\n| --- | --- |\n| trained gates | .100 (.000) |\n| ours | **.300 (.141)** |\n")


def test_rows_that_are_not_unique_are_refused(tmp_path):
    write(tmp_path, "method,seed,score\nobd,0,0.2\nobd,1,0.4\n")
    with pytest.raises(pages.PageError, match=r"expected one row .* received 2: add a condition or a mean"):
        pages.render(tmp_path, "a.csv | rows method | values {score}")


@pytest.mark.parametrize(
    ("value", "digits", "text"), [(0.8795, 3, ".880"), (-0.05, 1, "-.1"), (12.345, 2, "12.35"), (0.0, 3, ".000")]
)
def test_halves_are_rounded_up_and_zeros_before_the_point_left_out(value, digits, text):
    assert pages.number(value, digits) == text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_has_a_question_and_a_parser(script):
    assert pages.question_of(script).endswith(("?", "."))
    tree = ast.parse(script.read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert called & {"new_parser", "argparse.ArgumentParser"}


@pytest.mark.parametrize("folder", ["docs", "experiments"])
def test_pages_and_scripts_use_words_of_the_field(folder):
    files = [path for pattern in ("*.md", "*.py") for path in (ROOT / folder).rglob(pattern)]
    found = {str(path): word for path in files for word in PRIVATE if word in path.read_text(encoding="utf-8").lower()}
    assert found == {}


def test_every_page_is_listed_once():
    text = (ROOT / "docs" / "results" / "index.md").read_text(encoding="utf-8")
    names = {path.stem for path in (ROOT / "docs" / "results").glob("*.md")} - {"index"}
    assert {name: text.count(f"]({name}.md)") for name in names} == dict.fromkeys(names, 1)
