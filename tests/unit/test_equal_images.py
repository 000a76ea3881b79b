"""The pure parts of the benchmark at equal training images: what each variant spends. Nothing is trained here."""

from types import SimpleNamespace

import pytest
import torch

from autoprune.config import RunConfig
from autoprune.criteria.scoring import make


@pytest.fixture(scope="module")
def bench(script):
    return script("equal_images")


def test_every_variant_is_a_legal_configuration_within_the_evaluations(bench):
    for variant in bench.VARIANTS.values():
        config = RunConfig.make(**variant.how)
        assert config.trials + config.finalists <= bench.ALLOWED


def test_what_is_spent_before_is_taken_off_the_end(bench):
    # 351 steps; adaptation takes 100; three finalists of 30 steps take 90
    steps = {name: variant.final for name, variant in bench.VARIANTS.items()}
    assert {name: n for name, n in steps.items() if n != 351} == {
        "adapted": 251,
        "adapted-reconstructed": 251,
        "adapted-scored-anew": 251,
        "short": 261,
    }


def test_adapted_candidates_keep_the_order_of_the_adaptation(bench, monkeypatch):
    criterion = make(bench.VARIANTS["adapted"].how["criterion"])
    monkeypatch.setattr(type(criterion), "scores", {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0])})
    assert not criterion.needs  # no gradients of the adapted weights
    assert criterion.score(SimpleNamespace(name="a")).tolist() == [3.0, 1.0]


def test_the_table_counts_images_and_keeps_the_order_of_the_variants(bench):
    final = {"test": 84.0, "val": 85.0, "seconds": 60.0, "steps": 261}
    row = {"variant": "short", "budget": "50%", "seed": 0, "evaluations": 99, "macs": 0.4987, "untrained": 60.0}
    row |= {"images_search": 11520, "images_adaptation": 0, "seconds_adaptation": 0.0, "seconds_search": 300.0}
    other = {**row, "variant": "proxy", "images_search": 0, "final": {**final, "steps": 351}}
    rows = [{**row, "final": final}, {**row, "seed": 1, "final": {**final, "test": 86.0}}, other]
    lines = bench.table(rows, bench.VARIANTS)[2:]
    # 3 * 30 * 128 = 11,520 and 261 * 128 = 33,408 make 351 * 128 = 44,928; 84 and 86: mean 85, deviation sqrt(2)
    assert [line.split(" | ")[3:6] for line in lines] == [["0", "0", "44,928"], ["11,520", "0", "33,408"]]
    assert lines[1].split(" | ")[7:10] == ["85.00 ± 1.41", "2", "84.00, 86.00"]
