"""Law: the smaller model computes what the masked network computes, for every kind and architecture."""

from typing import Any

import applications
import models
import pytest
from cutting import check_law

import dropreg as dr
from dropreg.errors import ModelError

GRID = sorted(models.BUILDERS)


@pytest.mark.parametrize("name", GRID)
@pytest.mark.parametrize("kind", ["neurons", "embeddings", "heads", "layers", "branches", "weights"])
def test_masked_equals_shrunk(name: str, kind: Any) -> None:
    model = models.ready(name)
    try:
        dr.elements(model, kind)
    except ModelError:
        return  # the model has no such elements
    for small in check_law(model, kind, models.inputs_for(model, 5)):
        assert not small.blocked
        after = small.report.layers["params_after"].sum()
        assert after == small.model.count_params()
        assert after <= model.count_params()
        drops = not small.selection.kept.all()
        assert (after < model.count_params()) == (drops and kind != "weights")


@pytest.mark.parametrize("name", applications.NAMES)
def test_masked_equals_shrunk_on_real_architectures(name: str) -> None:
    model = applications.build(name)
    pruned = check_law(model, "neurons", [applications.images_for(model, 2)], step=2)
    counts = [small.model.count_params() for small in pruned]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 0.3 * model.count_params()
