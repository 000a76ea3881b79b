"""What each worker gets of a cluster, and what is said where it cannot be had; Ray itself is not started."""

import os
import signal
import sys

import pytest

from autoprune.process import Terminated
from autoprune.workers.cluster import Share, connect
from autoprune.workers.cluster.environment import same_handlers
from autoprune.workers.cluster.reach import fair_share


def node(cpus, gpus=0):
    return {"CPU": float(cpus), "GPU": float(gpus)}


@pytest.mark.parametrize(
    ("nodes", "asked", "share"),
    [
        ([node(4)], (), Share(4, 1)),  # no GPU: one worker per core
        ([node(4)], (2,), Share(2, 2)),
        ([node(4), node(4)], (3,), Share(3, 2)),  # 2 + 2 of two cores each; with 4 each only two would fit
        ([node(8, 2)], (), Share(2, 4, 1.0)),  # one per GPU
        ([node(8, 2)], (0, 2), Share(4, 2, 0.5)),
        ([node(8, 2), node(64)], (2,), Share(2, 4, 1.0)),  # the cores of a node without a GPU do not count
        ([node(8, 2)], (8, 0, "cpu"), Share(8, 1)),
    ],
)
def test_the_largest_equal_share_is_given(nodes, asked, share):
    assert fair_share(nodes, *asked) == share


@pytest.mark.parametrize(
    ("nodes", "asked", "said"),
    [
        ([node(8, 2)], (4,), r"4 workers, 1 per GPU, need 4 GPUs, but it has 2; give --workers 2"),
        ([node(8, 2)], (5, 2), r"5 workers, 2 per GPU, need 3 GPUs, but it has 2; give --workers 4"),
        ([node(8)], (1, 0, "cuda"), r"need 1 GPUs, but it has 0; give --device cpu"),
        ([node(2), node(1)], (4,), r"4 workers need a core each, .*3 cores have room for 3; give --workers 3"),
        ([node(1, 4)], (4,), r"a core each beside their GPU, .* room for 1; give --workers 1"),
    ],
)
def test_a_cluster_that_is_too_small_is_named_with_the_cure(nodes, asked, said):
    with pytest.raises(ValueError, match=said):
        fair_share(nodes, *asked)


def test_an_address_of_no_kind_is_refused():
    with pytest.raises(ValueError, match=r"cluster '10\.0\.0\.1:6379': expected auto, local or ray://host:port"):
        connect("10.0.0.1:6379")


def test_without_ray_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'autoprune\[ray\]'"):
        connect("auto")


def test_nobody_at_the_address(monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr("autoprune.workers.cluster.reach.WAIT_S", 0.1)
    with pytest.raises(ValueError, match=r"'ray://127\.0\.0\.1:9': no answer within 0 s .*refused"):
        connect("ray://127.0.0.1:9")


@pytest.mark.parametrize(
    "address",
    [
        "head",
        ":10001",
        "head:",
        "head:port",
        "head:0",
        "head:65536",
        f"head:{10**30}",
        "a..b:10001",
        f"{'x' * 64}:10001",
    ],
)
def test_an_address_that_nobody_can_have_is_refused_at_once(address, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("somebody was asked"))
    with pytest.raises(ValueError, match=rf"^cluster 'ray://{address}': expected ray://host:port, e\.g\. ray://head:1"):
        connect(f"ray://{address}")


def test_another_version_of_ray_is_named():
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray._private.utils import check_version_info

    from autoprune.workers.cluster.reach import _explained

    with pytest.raises(ValueError, match=r"'auto': runs another version .*2\.0\.0.*install the same Ray"):
        with _explained("auto", "2.60.0"):
            check_version_info({"ray_version": "2.0.0", "python_version": "3.11.7"}, "here")


@pytest.mark.parametrize("address", ["local", "auto"])
def test_what_ray_raises_when_it_cannot_start_is_one_sentence(address, monkeypatch):
    ray = pytest.importorskip("ray")

    def init(where, **_):
        raise ConnectionError if where == "auto" else Exception("The current node\ntimed out")  # as Ray does

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr("autoprune.workers.cluster.reach.STARTED", {})
    with pytest.raises(ValueError, match=rf"^cluster '{address}': could not be started .*node timed out.*; try"):
        connect(address)


def test_a_sigterm_that_ray_has_taken_is_handled_as_before():
    def handler(number, _):
        raise Terminated(number)

    def as_ray_does():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Terminated), same_handlers():
            as_ray_does()
        assert signal.getsignal(signal.SIGTERM) is handler
        with pytest.raises(SystemExit), same_handlers():
            sys.exit(3)
    finally:
        signal.signal(signal.SIGTERM, before)
