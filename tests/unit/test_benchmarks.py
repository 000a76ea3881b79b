"""The pure parts of the quality benchmark: what a measure means, when a piece counts, what the tables say."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

NAMES = ("protocol", "allocations", "quality", "quality_pieces", "quality_judges", "quality_tables", "trainability")


@pytest.fixture(scope="module")
def bench(script):
    return SimpleNamespace(**{name: script(name) for name in NAMES})


def test_what_a_measure_means(bench):
    parse = bench.quality.Training.parse
    assert parse("train:351") == (351, "", 0, ())
    how = parse("train:100:fitted:distill=0.5:lr_schedule=linear:decay_biases=false:s2")
    assert how[:3] == (100, "fitted", 2)
    assert (how.how.distill, how.how.lr_schedule, how.how.decay_biases, how.how.seed) == (0.5, "linear", False, 2)
    assert (how.how.lr, how.how.warmup, how.how.batch_size) == (0.02, 0, 128)  # else the plain protocol
    assert parse("short:100") is None  # a fidelity of the evaluator
    with pytest.raises(ValueError, match="expected train:STEPS"):
        parse("train:351:warm")
    assert parse("train:351:scratch").how.lr == 0.1
    with pytest.raises(ValueError, match="expected train:STEPS"):
        parse("train:351:scratch:fitted")
    with pytest.raises(ValueError, match="no training setting 'warm'"):
        _ = parse("train:351:warm=1").how


def test_a_piece_counts_for_the_widths_it_is_of(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.quality, "PIECES", tmp_path)
    found = bench.quality.Bench(tmp_path, "resnet20", "15%")
    found.widths = {"equal loss": (1, 2)}
    path = found.path("equal loss", "train:351")
    assert path == tmp_path / "resnet20" / "15" / "equal_loss_train_351.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"widths": [1, 2], "loss": 0.5}))
    assert found.read("equal loss", "train:351")["loss"] == 0.5
    found.widths["equal loss"] = (2, 2)
    assert found.read("equal loss", "train:351") is None


def test_pieces_are_of_one_training_of_their_network(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.quality, "PIECES", tmp_path / "pieces")
    file = tmp_path / bench.protocol.NETWORKS["vgg16_quarter"].weights

    def train(seed):
        torch.manual_seed(seed)
        save_file(bench.protocol.NETWORKS["vgg16_quarter"].build().state_dict(), file)
        return bench.quality.Bench(tmp_path, "vgg16_quarter", "15%")

    assert train(0).dense is not None
    assert train(0).dense is not None  # again, the same
    with pytest.raises(SystemExit, match="are of other weights than"):
        _ = train(1).dense


def test_a_piece_in_other_hands_is_left_to_them(bench, tmp_path):
    with bench.protocol.claim(tmp_path / "a.lock") as mine, bench.protocol.claim(tmp_path / "a.lock") as second:
        assert mine
        assert not second
    with bench.protocol.claim(tmp_path / "a.lock") as again:
        assert again


def test_how_well_losses_choose(bench):
    """Best first: a 70, b 60, c 50. Losses that swap the first two lose 10 points, with a rank correlation of 1/2."""
    truth = {"a": 70.0, "b": 60.0, "c": 50.0}
    assert bench.quality_judges.agreement({"a": 1.0, "b": 2.0, "c": 3.0}, truth) == (3, 1.0, 0.0, "a")
    count, rank, lost, chosen = bench.quality_judges.agreement({"a": 2.0, "b": 1.0, "c": 3.0, "d": 0.0}, truth)
    assert (count, lost, chosen) == (3, 10.0, "b")
    assert rank == pytest.approx(0.5)
    assert bench.quality_judges.best_of_kinds(truth, {"a": "x", "b": "x", "c": "y"}) == {"a": 70.0, "c": 50.0}


def test_the_table_names_the_best_first(bench):
    def piece(name, top1):
        return {"name": name, "loss": 1 - top1, "test_top1": top1, "val_top1": top1, "widths": [3, 4], "compute_s": 9.0}

    found = {"train:351": {"a": piece("a", 0.5), "b": piece("b", 0.75)}, "proxy": {"a": {**piece("a", 0.1), "loss": 2}}}
    del found["proxy"]["a"]["test_top1"]
    lines = bench.quality_tables.table(found, {"a": "uniform"})
    assert lines[2:] == ["| b | b |  | 75.00 | 3 4 |", "| a | uniform | 2.000 | 50.00 | 3 4 |"]


def test_widths_of_another_network_are_refused(bench):
    for (network, budget), found in bench.allocations.FOUND.items():
        assert set(found) <= set(bench.allocations.of(network, budget))
        assert network in bench.protocol.NETWORKS
    problem = SimpleNamespace(space=SimpleNamespace(check=lambda widths: widths))
    assert bench.allocations.told("1 2 3")(lambda criterion: problem) == (1, 2, 3)


def test_the_table_has_a_row_for_each_network_and_the_spread_of_its_seeds(bench, tmp_path):
    def keep(what, top1, widths, amp=True):
        piece = {"name": "search combined s0", "what": what, "loss": 1.0, "test_top1": top1, "widths": widths}
        (tmp_path / f"{what.replace(':', '_')}.json").write_text(json.dumps({**piece, "amp": amp, "compute_s": 1.0}))

    keep("train:3510", 0.8, [3, 4])
    keep("train:3510:s1", 0.82, [3, 4], amp=False)
    keep("train:3510:s2", 0.7, [4, 3])  # searched anew elsewhere: another network
    (tmp_path / "fastnas-1.json").write_text("{}")  # what a peer has kept there
    lines = bench.quality_tables.table(bench.quality_pieces.read(tmp_path), {})
    assert lines[0] == "| allocation | kind | 10 epochs | widths |"
    assert lines[2:] == [
        "| search combined s0 | search | 81.00 ± 1.41 (2) f32 | 3 4 |",
        "| search combined s0 (2) | search | 70.00 | 4 3 |",
    ]


def test_the_judgement_takes_the_best_of_the_others_and_says_where_the_spread_is_larger(bench):
    def seeds(*top1):
        return [{"test_top1": value, "val_top1": value + 0.01} for value in top1]

    def of(**trained):
        pieces = {}
        for name, found in trained.items():
            for seed, piece in enumerate(found):
                what = "train:3510" + f":s{seed}" * bool(seed)
                pieces.setdefault(what, {})[name.replace("_", " ")] = {**piece, "widths": [1]}
        return pieces

    peers = {"peer_tp_s0": seeds(0.5, 0.5), "peer_nas_s0": seeds(0.78, 0.78), "uniform": seeds(0.70, 0.76)}
    found = {
        ("net", "15%"): of(search_combined_s0=seeds(0.8, 0.82), search_random_s0=seeds(0.9, 0.9), **peers),
        ("other", "15%"): of(search_combined_s0=seeds(0.8), **peers),
        ("third", "15%"): of(search_combined_s0=seeds(0.8)),  # nobody to be judged against
    }
    kinds = {key: {"uniform": "uniform, all groups"} for key in found}
    lines = bench.quality_tables.judgement(found, kinds, {"net": 90.0})
    assert lines[2:] == [
        "| net | 90.00 | 15% | 81.00 ± 1.41 (2) | 78.00 ± 0.00 (2) | nas | 73.00 ± 4.24 (2) | +3.00 | +8.00 "
        "| 82.00 : 79.00 |",
        "| other |  | 15% | 80.00 | 78.00 ± 0.00 (2) | nas | 73.00 ± 4.24 (2) | +2.00 ! | +7.00 ! | 81.00 : 79.00 |",
    ]


def test_weights_drawn_anew_follow_from_the_seed(bench):
    def drawn(seed):
        net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        torch.nn.init.constant_(net[1].running_var, 9.0)
        bench.quality.drawn_anew(net, seed)
        return net.state_dict()

    first, second, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    assert torch.equal(first["1.running_var"], torch.ones(2))
    bare = torch.nn.ParameterList([torch.zeros(2)])
    with pytest.raises(ValueError, match="ParameterList has weights and does not draw them"):
        bench.quality.drawn_anew(bare, 0)


def test_curves_through_three_losses(bench):
    """Falls of 4 and 2: a power law halves them at each doubling, 1 and 1/2 more in two; a line goes on by 2 and 2."""
    found = bench.quality_judges.curves(8.0, 4.0, 2.0, 4.0)
    assert found == {
        "slope from 50 to 100 steps": -2.0,
        "line through 50 and 100 steps": pytest.approx(-2.0),
        "power law through 25, 50, 100 steps": pytest.approx(0.5),
    }
    assert bench.quality_judges.curves(3.0, 2.0, 1.0, 2.0)["power law through 25, 50, 100 steps"] == pytest.approx(0)
    rising = bench.quality_judges.curves(1.0, 2.0, 3.0, 4.0)
    assert rising["power law through 25, 50, 100 steps"] == 3.0


def test_a_fitted_model_has_not_seen_the_network_that_it_judges(bench):
    """One network's losses say the truth, the other's the opposite: each is judged as the other would have it."""

    def network(sign):
        names = [f"a{i}" for i in range(6)]
        losses = {n: (sign * i, 1.0) for i, n in enumerate(names)}
        return dict.fromkeys(bench.quality_judges.FEATURES, losses), {n: -float(i) for i, n in enumerate(names)}

    (straight, truth), (turned, _) = network(1.0), network(-1.0)
    said = bench.quality_judges.fitted({"x": straight, "y": turned}, {"x": truth, "y": truth})
    for name in ("x", "y"):
        (judged,) = said[name].values()
        losses = {n: loss for n, (loss, _) in judged.items()}
        assert bench.quality_judges.agreement(losses, truth)[1] == pytest.approx(-1.0)
    assert bench.quality_judges.fitted({"x": straight}, {"x": truth}) == {}  # no other network


def test_trainability_of_a_linear_network(bench):
    """Its Jacobian is its matrix at every image: diag(3, 1) has singular values of 3 and 1, half of diag(6, 2)."""

    def linear(*diagonal):
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
        net[1].weight.data = torch.diag(torch.tensor(diagonal))
        return net

    images, labels = torch.zeros(4, 2, 1, 1), torch.zeros(4, dtype=torch.long)
    measures = bench.trainability
    assert measures.singular_value(linear(3.0, 1.0), images) == pytest.approx(2.0)
    assert measures.isometry(linear(3.0, 1.0), linear(6.0, 2.0), images, labels) == pytest.approx(math.log(2))
    images[:, 0] = 2.0  # scores 0 and 0 where the weights are 0: gradients of (1/2 - 1, 1/2) times the input (2, 0)
    assert measures.gradient_flow(linear(0.0, 0.0), linear(1.0, 1.0), images, labels) == pytest.approx(-2.0)
    thin = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 1, bias=False))
    assert measures.smallest_share(thin, linear(1.0, 1.0), images, labels) == -0.5
