"""The pure parts of the benchmark harness: rows, table and resume. Nothing is searched or trained here."""

import math
from types import SimpleNamespace

import pytest

from autoprune.config import RunConfig

NAMES = ("protocol", "peers", "record", "report", "policies")


@pytest.fixture(scope="module")
def bench(script):
    return SimpleNamespace(**{name: script(name) for name in NAMES})


def row(bench, policy="random", seed=0, top1=80.0, curve="1:3.0 50:2.0 93:2.0", **more):
    more = {"evaluations": 99, "macs": 0.499, "test_bn": 60.0, "machine": "a machine", **more}
    return bench.record.Row(policy, "50%", seed, test_epoch=top1, curve=curve, **more)


def test_a_curve_holds_where_the_loss_fell_and_how_it_ended(bench):
    # 3.0 is the first, 4.0 is worse, a failed one has no loss, 2.5 is better, 2.5 again is not, and 5 is the last one
    assert bench.record.best_so_far([3.0, 4.0, math.nan, 2.5, 2.5]) == [(1, 3.0), (4, 2.5), (5, 2.5)]
    assert bench.record.best_so_far([None, math.inf]) == []


def test_neither_finalists_nor_probes_are_in_the_curve(bench):
    found = {"policy": "evolution", "budget": "50%", "seed": 0, "losses": [3.0, 0.5, 2.0, 1.0]}
    found |= {"fidelities": ["proxy", "proxy", "proxy", "short"], "probes": [False, True, False, False]}
    made = bench.record.from_piece(found, {"test": 84.5}, "here")
    assert made.points == [(1, 3.0), (3, 2.0)]
    assert (made.test_epoch, made.machine) == (84.5, "here")


def test_the_record_gives_back_its_rows(bench, tmp_path):
    rows = [row(bench, seed=1), row(bench, seed=0), row(bench, "fastnas-8", top1=math.nan, error="out of reach, alas")]
    bench.record.add(tmp_path / "r.csv", rows, tmp_path / "lock")
    found = bench.record.add(tmp_path / "r.csv", [row(bench, seed=1, top1=81.25)], tmp_path / "lock")
    assert found.keys() == bench.record.read(tmp_path / "r.csv").keys() == {r.key for r in rows}
    found = bench.record.read(tmp_path / "r.csv")
    assert found["random", "50%", 1].test_epoch == 81.25
    assert found["random", "50%", 0].points == [(1, 3.0), (50, 2.0), (93, 2.0)]
    assert math.isnan(found["fastnas-8", "50%", 0].test_epoch)
    assert found["fastnas-8", "50%", 0].error == "out of reach, alas"


def test_the_table_names_the_best_first_and_counts_the_way_to_randoms_loss(bench):
    rows = [row(bench), row(bench, "evolution", top1=84.0, curve="1:3.0 20:1.9 93:1.5")]
    rows += [row(bench, "fastnas-8", top1=math.nan, error="its floor is 30.5 %")]
    lines = bench.report.results(rows, {"fastnas-8": "FastNAS"})
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| evolution", "| random", "| FastNAS"]
    assert lines[2].split(" | ")[11] == "20"  # random ends at 2.0; evolution is at 1.9 after 20
    assert "its floor is 30.5 %" in lines[4]


@pytest.mark.parametrize(
    ("ours", "said"),
    # rivals: mean 80, standard deviation 1. Ours: deviation 0.1; a gap of 2 is more than the larger one, 0.5 is not
    [((82.0, 82.1, 81.9), "+2.00, spread 1.00: holds"), ((80.5, 80.6, 80.4), "+0.50, spread 1.00: does not hold")],
)
def test_a_bar_holds_beyond_the_spread_only(bench, ours, said):
    assert bench.report.verdict(ours, (79.0, 80.0, 81.0)) == said
    assert bench.report.verdict(ours[:1], (79.0, 80.0, 81.0)) == "open"


def test_a_peer_counts_as_delivered_with_the_better_of_its_two_ways(bench):
    peer = [row(bench, "tp-l2", s, 80.0 + s, test_delivered=85.0 + s) for s in range(2)]
    ours = [row(bench, RunConfig().strategy, s, 82.0, test_delivered=90.0 + s) for s in range(2)]
    cut, delivered = bench.report.bars([*peer, *ours], {"tp-l2": "Peer"})[-2:]
    assert "Peer 80.50 ± 0.71" in cut
    assert "Peer 85.50 ± 0.71 | +5.00, spread 0.71: holds" in delivered


def test_the_mean_curve_begins_where_all_have_a_loss(bench):
    runs = [row(bench, seed=0, curve="1:4.0 3:2.0"), row(bench, seed=1, curve="2:3.0 3:3.0")]
    assert bench.report.mean_curve(runs) == [(2, 3.5), (3, 2.5)]


def test_a_finished_job_is_not_run_again(bench, tmp_path, monkeypatch):
    policies, calls = bench.policies, []
    monkeypatch.setattr(bench.protocol, "CACHE", tmp_path)
    monkeypatch.setattr(policies, "PIECES", tmp_path / "policies")
    monkeypatch.setattr(policies, "TABLE", tmp_path / "policies.csv")

    def search(job, data, weights):
        calls.append("search")
        return {"policy": job.policy, "budget": job.budget, "seed": job.seed, "kept": [[0]], "losses": [1.0]}

    def one_epoch(data, weights, kept, seed):
        calls.append("epoch")
        if calls.count("epoch") == 1:
            raise KeyboardInterrupt
        return {"test": 84.0}

    monkeypatch.setattr(policies, "search", search)
    monkeypatch.setattr(policies, "one_epoch", one_epoch)
    job = policies.Job.parse('random 50% 1 {"trials": 9}')
    assert job.settings == {"trials": 9}

    def run(**how):
        return policies.run_job(job, lambda: None, tmp_path, **how)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert run().test_epoch == 84.0
    assert calls == ["search", "epoch", "epoch"]  # the search was not lost
    for piece in (tmp_path / "policies").glob("*.json"):
        piece.unlink()
    assert run().test_epoch == 84.0
    assert len(calls) == 3  # the row is enough
    with bench.record.claim(tmp_path / "policies" / "random-50%-s1.lock"):
        assert run(again=True) is None  # in other hands
    assert run(again=True) is not None
    assert len(calls) == 5


def test_every_policy_is_a_legal_configuration(bench):
    from autoprune.config import RunConfig
    from autoprune.strategies import STRATEGIES

    for name, settings in bench.policies.POLICIES.items():
        assert RunConfig.make(**{"strategy": name, **settings}).strategy in STRATEGIES
