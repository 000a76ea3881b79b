"""A search on a Ray cluster loses nothing: workers, the coordinator, a whole node are really killed in the middle."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from autoprune.errors import SearchStopped
from autoprune.ledger import Ledger
from autoprune.problem import TrialState
from autoprune.workers.cluster import Share, run_cluster
from autoprune.workers.cluster.environment import same_handlers

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import slow_device
import toys

pytestmark = [
    pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray leaves sockets and log files to the garbage collector
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what Ray itself calls
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # Ray announces what it will do about CUDA_VISIBLE_DEVICES
]
STORE = 100 * 2**20


@pytest.fixture(scope="module")
def cluster():
    """A head with two cores, in which nothing is left behind."""
    import ray  # not above: whoever collects the tests would wait for it
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 starves them beside other tests
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        with same_handlers():  # Ray's own would outlive the cluster and end later tests
            made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": STORE})
            ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(autouse=True)
def tidy():
    """Ray leaves files open: collected here, where its warnings are filtered, and not in a later test."""
    yield
    gc.collect()


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


class Heard:
    """A listener that counts."""

    def __init__(self):
        self.trials = []

    def on_asked(self, job):
        pass

    def on_told(self, trial):
        self.trials.append(trial)


def lines(run, name="side.txt"):
    try:
        return (run / name).read_text().splitlines()
    except OSError:
        return []


def check_exact(run, in_flight):
    """Every asked trial has ended exactly once; at most those in flight at the kills were evaluated again."""
    record = Ledger.read(run)
    assert all(t.state is not TrialState.RUNNING for t in record.trials)
    assert sorted(e.order for e in record.entries) == list(range(len(record.entries)))
    real = [t for t in record.trials if not t.metrics.get("cached")]
    assert sum(t.fidelity == "proxy" for t in real) == toys.NUM_TRIALS
    assert sum(t.fidelity == "short" for t in real) == toys.FINALISTS[0]
    assert len(real) <= len(lines(run)) <= len(real) + in_flight
    for trial in real:
        if trial.state is TrialState.COMPLETE:
            assert trial.metrics["batch_losses"] == toys.measure(trial)["batch_losses"]
    return record


def when(run, count, act):
    """Do it as soon as so many evaluations have begun."""

    def wait():
        give_up = time.monotonic() + 900
        while len(lines(run)) < count and time.monotonic() < give_up:
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def search(run, workers=2, pause_s=0.05, crowd=1, **more):
    make = toys.MakeEvaluator(str(run / "side.txt"), pause_s, crowd)
    run_cluster(toys.OpenSearch(str(run)), make, Share(workers, 1), run / "ray", **more)


def test_a_search_is_exact_and_tells_its_listener_and_callbacks(cluster, run, capfd):
    from ray import tune

    class Recorder(tune.Callback):
        def __init__(self):
            self.rows = []

        def on_trial_result(self, iteration, trials, trial, result, **info):
            self.rows.append(result)

        def on_step_begin(self, iteration, trials, **info):
            time.sleep(0.5)  # a busy driver: the search is over before it has any row

    heard, recorder = Heard(), Recorder()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    search(run, listener=heard, callbacks=[recorder], table=True)
    # Tune's would swallow the first Ctrl-C of what follows.
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    record = check_exact(run, in_flight=0)
    assert [t.number for t in heard.trials] == [e.trial.number for e in sorted(record.entries, key=lambda e: e.order)]
    last = {row["worker"]: row for row in recorder.rows}
    assert sorted(last) == ["worker-0", "worker-1"]
    assert sum(row["candidates"] for row in last.values()) == len(lines(run))
    best = min(t.loss for t in record.trials if t.state is TrialState.COMPLETE)
    assert min(row["best_loss"] for row in last.values()) == best
    table = capfd.readouterr().out
    assert "| worker-0 " in table
    assert "best loss" in table
    Ledger.open(run, toys.GROUPS, {"seed": 3}).close()  # the coordinator has let go of it
    assert not [p for p in (run / "ray").rglob("*") if p.name in ("progress.csv", "result.json")]  # no second record


def test_a_killed_worker_and_a_killed_desk_cost_nothing_but_one_evaluation(cluster, run):
    when(run, 8, lambda: os.kill(int(lines(run)[-1].split()[1]), signal.SIGKILL))
    when(run, 16, lambda: os.kill(int(lines(run, "coordinator.txt")[-1]), signal.SIGKILL))
    search(run, pause_s=0.1, crowd=3)
    assert len(lines(run, "coordinator.txt")) == 2
    assert len({line.split()[1] for line in lines(run)}) == 3
    check_exact(run, in_flight=1)  # that of the worker: who lives keeps what it has when the coordinator is made again


@pytest.mark.slow
def test_a_lost_node_gives_its_candidate_back(cluster, run):
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    gone = when(run, 12, lambda: cluster.remove_node(node, allow_graceful=False))
    search(run, workers=3, pause_s=0.3)
    gone.join()
    check_exact(run, in_flight=1)


@pytest.mark.slow
def test_an_evaluator_that_cannot_be_built_stops_the_search_and_names_the_node(cluster, run):
    with pytest.raises(SearchStopped, match=r"worker-\d: the evaluator cannot be built: on node [\d.]+: OSError: no w"):
        run_cluster(toys.OpenSearch(str(run)), toys.broken, Share(2, 1), run / "ray")


SMALL = {"budget": "macs<=60%", "epochs": 0, "bn_samples": 64, "val_samples": 100, "short_steps": 8, "batch_size": 32}


@pytest.mark.slow
@pytest.mark.parametrize("rungs", [1, 2])
def test_finalists_on_a_cluster_get_the_losses_of_a_local_worker(cluster, here, digits_weights, rungs, monkeypatch):
    import autoprune
    from autoprune.evaluation import Evaluator
    from autoprune.runs import Recipe, RunDirectory, reopen

    looked_up = Evaluator.trained

    def trained(self, widths, fidelity, retrain):
        return looked_up(self, widths, fidelity, lambda: pytest.fail("the worker of a finalist has left no weights"))

    monkeypatch.setattr(Evaluator, "trained", trained)
    result = autoprune.search(
        "search_spaces.models:digits_cnn", "digits", weights=str(digits_weights), name="far", cluster="auto",
        workers=2, trials=6, finalists=2, rungs=rungs, fidelity="proxy", criterion="l1", **SMALL,
    )  # fmt: skip
    assert sys.modules["ray"].is_initialized()  # it was there before
    run = RunDirectory.open("results/far")
    trials = run.record().trials
    shorts = [t for t in trials if t.fidelity == "short"]
    assert len(trials) - len(shorts) >= 6
    assert len(shorts) == 2 * rungs
    assert {t.state for t in shorts} == (
        {TrialState.COMPLETE} if rungs == 1 else {TrialState.COMPLETE, TrialState.PRUNED}
    )
    prepared = reopen(run, "resume")
    evaluate = Recipe(run.config, prepared.problem).evaluator(prepared.model, prepared.task)
    for trial in shorts:
        if trial.state is TrialState.COMPLETE:
            assert trial.metrics["batch_losses"] == evaluate(trial.widths, "short")["batch_losses"]
        else:
            assert trial.metrics["steps"] == 4
    assert "finalist_val" in result.metrics
    assert not (run.path / "trained").exists()
    assert result.trial.loss == min(t.loss for t in shorts if t.state is TrialState.COMPLETE)


ROOT = str(Path(__file__).parents[2])


def start(*command):
    return subprocess.Popen([sys.executable, *map(str, command)], env={**os.environ, "PYTHONPATH": ROOT})


def wait_for(process, happened, seconds=120):
    give_up = time.monotonic() + seconds
    while not happened() and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.01)
    assert happened()


@pytest.mark.slow
def test_a_killed_driver_leaves_a_run_that_goes_on(run):
    process = start(Path(toys.__file__), run, 2, "ray")
    wait_for(process, lambda: len(lines(run)) >= 10)
    process.kill()
    process.wait()
    assert start(Path(toys.__file__), run, 2, "ray").wait(timeout=200) == 0
    check_exact(run, in_flight=2)


def workers_below(pid):
    """Ray's worker processes that descend from this one."""
    parents, workers = {}, set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if any(word.endswith("default_worker.py") for word in (path / "cmdline").read_text().split("\0")):
                workers.add(int(path.name))

    def descends(child):
        return child == pid or (child in parents and descends(parents[child]))

    return [worker for worker in workers if descends(worker)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_worker_that_is_killed_while_ray_starts_is_replaced(run):
    """Ray notices after a minute; it would wait for ever for one that it had started in advance."""
    process = start(Path(toys.__file__), run, 1, "ray")
    try:
        wait_for(process, lambda: workers_below(process.pid))
        os.kill(workers_below(process.pid)[0], signal.SIGKILL)
        assert process.wait(timeout=250) == 0
    finally:
        process.kill()
    check_exact(run, in_flight=1)


SCRIPT = """
import autoprune
from pathlib import Path
if Path("results/far").exists():
    autoprune.resume("results/far")
else:
    autoprune.search(
        "search_spaces.models:digits_cnn", "digits", weights={weights!r}, name="far", cluster="local", workers=1,
        trials=3, finalists=1, fidelity="proxy", criterion="l1", budget="macs<=60%", epochs=0, bn_samples=64,
        val_samples=100, short_steps=400, batch_size=32,
    )
"""


@pytest.mark.slow
def test_a_finalist_goes_on_in_the_middle_of_its_schedule_after_the_driver_was_killed(here, digits_weights):
    from autoprune.runs import Recipe, RunDirectory, reopen

    (here / "script.py").write_text(SCRIPT.format(weights=str(digits_weights)))
    process = start("script.py")
    wait_for(process, lambda: list(here.glob("results/far/ray/finalists-0/*/checkpoint_000001/*.pt")))
    process.kill()
    process.wait()
    assert start("script.py").wait(timeout=200) == 0
    run = RunDirectory.open("results/far")
    (trial,) = (t for t in run.record().trials if t.fidelity == "short")
    assert trial.metrics["resumed_from"] in (100, 200, 300)
    prepared = reopen(run, "resume")
    evaluate = Recipe(run.config, prepared.problem).evaluator(prepared.model, prepared.task)
    assert trial.metrics["batch_losses"] == evaluate(trial.widths, "short")["batch_losses"]


@pytest.mark.slow
def test_whatever_a_candidate_does_to_its_worker(cluster, run):
    run_cluster(toys.OpenSearch(str(run), 30, limit_s=3.0), toys.MakeMoody(str(run)), Share(2, 1), run / "ray")
    record = Ledger.read(run)
    states = {1: "complete", 2: "fail", 3: "complete", 4: "fail", 5: "complete"}
    for trial in record.trials:
        assert trial.state.value == states.get(trial.widths[0], "complete"), trial
        if trial.widths[0] == 2:
            assert "killed its worker 3 times" in trial.error
        if trial.widths[0] == 4:
            assert "cannot allocate 8 GB" in trial.error


@pytest.mark.slow
@pytest.mark.parametrize(("starts", "wanted"), [(99, 3), (2, 5)], ids=["replaced", "given-up"])
def test_a_worker_whose_device_breaks_is_replaced_or_else_the_other_goes_on(cluster, run, starts, wanted):
    said = []
    make = toys.MakeBreaking(str(run / "side.txt"), 0.2, starts, wanted)
    run_cluster(toys.OpenSearch(str(run), limit_s=600.0), make, Share(2, 1), run / "ray", say=said.append)
    check_exact(run, in_flight=1)
    assert len(lines(run, "side.txt.starts")) >= wanted
    assert Ledger.read(run).entries[5].deaths == 1
    assert len(said) == (0 if starts > 2 else 1)
    assert all("died 3 times before it was ready" in line and "goes on without it" in line for line in said)


@pytest.mark.slow
def test_a_worker_that_dies_before_it_is_ready_stops_the_search(cluster, run):
    with pytest.raises(SearchStopped, match="died 3 times before it was ready"):
        run_cluster(toys.OpenSearch(str(run)), toys.deadly, Share(1, 1), run / "ray")


@pytest.mark.slow
def test_a_latency_budget_holds_as_measured_although_the_driver_was_killed_while_it_measured(
    cluster, here, digits_weights, monkeypatch
):
    """Killed in the second finalist; what the corrected predictor asks for then is evaluated on the cluster, too."""
    import autoprune
    from autoprune.ledger.measurements import NOTE
    from autoprune.runs import RunDirectory
    from objectives.latency.comparing import LEAST

    monkeypatch.setattr("objectives.latency.needed.study", slow_device.study)
    monkeypatch.setattr(slow_device, "OVERHEAD", 0.15)
    settings = {
        "model": "search_spaces.models:digits_cnn", "weights": str(digits_weights), "data": "digits", "trials": 4,
        "finalists": 2, "fidelity": "proxy", "criterion": "l1", "reconstruct": False, "abandon": False, **SMALL,
        "budget": slow_device.BUDGET,
    }  # fmt: skip

    def told(name):
        record = RunDirectory.open(f"results/{name}").record()
        trials = [(t.number, t.widths, t.fidelity, t.state, t.metrics.get("loss")) for t in record.trials]
        return trials, {key: note for key, note in record.notes.items() if key.startswith(NOTE)}

    near = autoprune.search(**settings, name="near")
    monkeypatch.setenv("SLOW_DEVICE_OVERHEAD", "0.15")
    monkeypatch.setenv("SLOW_DEVICE_KILL_AT", str(LEAST + 2))
    far = json.dumps(settings | {"cluster": "local", "workers": 1})
    assert start(slow_device.__file__, "search", "results/far", far).wait(timeout=300) == -signal.SIGKILL
    assert [note["kind"] for note in told("far")[1].values()] == ["measured"]
    result = autoprune.resume("results/far", cluster="auto")
    trials, notes = told("far")
    assert sorted(trials) == sorted(told("near")[0])
    assert notes == told("near")[1]
    assert [note["kind"] for note in notes.values()].count("none held") == 1
    run = RunDirectory.open("results/far")
    assert {t.worker for t in run.record().trials} <= {"worker-0", *(f"finalist-{n}" for n in range(len(trials)))}
    assert result.metrics[slow_device.METRIC]["share"] <= 0.6
    assert (result.trial.number, result.metrics) == (near.trial.number, near.metrics)
    assert run.trial().number == result.trial.number
    said = json.loads((run.best / "architecture.json").read_text())
    assert (said["provenance"]["trial"], said["metrics"]) == (result.trial.number, result.metrics)
