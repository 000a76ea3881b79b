"""Classification gives the figures that were recorded before the engine learnt of other tasks."""

import json

import numpy as np
import pytest
from classification import RECORD, figures

from autoprune import compute

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compute, "_fast_bfloat16", lambda device: False)  # float32, so that machines agree
        return figures(tmp_path_factory.mktemp("figures"))


@pytest.mark.parametrize("name", json.loads(RECORD.read_text()))
def test_figures_are_those_recorded(found, name):
    expected = json.loads(RECORD.read_text())[name]
    np.testing.assert_allclose(found[name], expected, rtol=5e-3, atol=5e-3)


def test_proposals_are_those_recorded(found):
    assert found["search widths"] == json.loads(RECORD.read_text())["search widths"]
