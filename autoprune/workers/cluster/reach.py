"""Which cluster is meant, and what each worker gets of it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from autoprune.workers.cluster.environment import ALWAYS, same_handlers

WAIT_S = 10.0  # for the first sign of life of a `ray://` address
STARTED = {  # for the cluster that is started here, unless the user has said otherwise
    "RAY_worker_niceness": "0",  # Ray's 15 starves workers beside anything else that runs
    "RAY_prestart_worker_first_driver": "0",  # Ray waits for them for ever, should one of them be killed
}
INSTALL = "pip install 'autoprune[ray]'"


@dataclass(frozen=True)
class Share:
    """What Ray reserves for each worker.

    Attributes:
        num_workers: How many there are.
        cpus: Cores of each, and its threads.
        gpus: GPUs of each: 0, or 1 divided by the workers of one GPU.
    """

    num_workers: int
    cpus: int
    gpus: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to. Use as a context manager: it is left as it was found.

    Attributes:
        address: As asked for.
        ours: Whether this process started it or connected to it, so that it is to let go.
    """

    address: str
    ours: bool

    def share(self, workers: int = 0, per_device: int = 0, device: str = "auto", flag: str = "--workers") -> Share:
        """What each of so many workers gets.

        Args:
            workers: 0: one per GPU, or per core if there is no GPU (or it is not wanted).
            per_device: Workers that share one GPU; 0: one.
            device: "cpu" reserves no GPUs.
            flag: What asked for so many, for errors.

        Raises:
            ValueError: If the cluster is too small.
        """
        import ray

        nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
        return fair_share(nodes, workers, per_device, device, flag)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self.ours:
            import ray

            ray.shutdown()


def fair_share(
    nodes: list[dict[str, Any]], workers: int = 0, per_device: int = 0, device: str = "auto", flag: str = "--workers"
) -> Share:
    """The largest equal share of the nodes' cores that leaves room for all workers.

    Args:
        nodes: Resources of each node, "CPU" and "GPU".
        workers: As `Cluster.share`.
        per_device: Likewise.
        device: Likewise.
        flag: Likewise.

    Raises:
        ValueError: If there is no room for them.
    """
    cores = [int(n.get("CPU", 0)) for n in nodes]
    gpus = [int(n.get("GPU", 0)) for n in nodes]
    on_gpu = device.startswith("cuda") or (device == "auto" and sum(gpus) > 0)
    each = max(1, per_device)
    num = workers or (sum(gpus) * each if on_gpu else sum(cores))
    if on_gpu and num > sum(gpus) * each:
        needed, fewer = -(-num // each), sum(gpus) * each
        cure = f"{flag} {fewer}, or more workers on each with --per-device" if fewer else "--device cpu"
        raise ValueError(
            f"cluster: {num} workers, {each} per GPU, need {needed} GPUs, but it has {sum(gpus)}; give {cure}"
        )
    for cpus in range(max(cores, default=0), 0, -1):
        room = sum(min(c // cpus, g * each) if on_gpu else c // cpus for c, g in zip(cores, gpus, strict=True))
        if num and room >= num:
            return Share(num, cpus, 1 / each if on_gpu else 0.0)
    room = sum(min(c, g * each) if on_gpu else c for c, g in zip(cores, gpus, strict=True))
    raise ValueError(
        f"cluster: {num} workers need a core each{' beside their GPU' if on_gpu else ''}, but its {len(nodes)} nodes "
        f"with {sum(cores)} cores have room for {room}; give {flag} {room}" + (" or add nodes" if not room else "")
    )


def connect(address: str, **options: Any) -> Cluster:
    """Connect to a cluster; a process that is connected already stays where it is.

    Args:
        address: "auto" (a running cluster, else one is started on this machine), "local" (one is started), or
            "ray://host:port".
        **options: Further ones of `ray.init` where a cluster is started.

    Raises:
        ValueError: If Ray is missing, nobody answers at the address, or Ray's version there is another one.
    """
    if address not in ("auto", "local") and not address.startswith("ray://"):
        raise ValueError(f"cluster '{address}': expected auto, local or ray://host:port")
    try:
        import ray
        from ray import tune  # noqa: F401
    except ImportError as error:
        raise ValueError(f"cluster '{address}': needs Ray Tune ({error}); {INSTALL}") from error
    if ray.is_initialized():
        return Cluster(address, ours=False)
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
    with _explained(address, ray.__version__), same_handlers():
        if address.startswith("ray://"):
            if not importlib.util.find_spec("grpc"):
                raise ValueError(f"cluster '{address}': needs Ray's client (grpcio); {INSTALL}")
            _await(address)
            logging.getLogger("ray.util.client").setLevel(logging.CRITICAL)  # a lost head is said once, in words
            # Tune runs in a process of the head node then, which does not see this one's environment.
            ray.init(address, runtime_env={"env_vars": ALWAYS}, **quiet)
            return Cluster(address, ours=True)
        if address == "auto":
            with contextlib.suppress(ConnectionError):
                ray.init("auto", **quiet)
                return Cluster(address, ours=True)
        for name, value in STARTED.items():
            os.environ.setdefault(name, value)
        with _explained(address, ray.__version__, starts=True):
            ray.init("local", include_dashboard=False, **quiet, **options)
        return Cluster(address, ours=True)


@contextlib.contextmanager
def _explained(address: str, version: str, starts: bool = False) -> Iterator[None]:
    """Ray's own words are several lines long; in the block it is found, or `starts` here."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # Ray raises what it likes
        text = " ".join(str(error).split())
        if "ersion" in text and "mismatch" in text.lower():
            cure = f"install the same Ray and Python on both sides (here Ray {version})"
            raise ValueError(f"cluster '{address}': runs another version ({text[:300]}); {cure}") from error
        if starts:
            raise ValueError(f"cluster '{address}': could not be started ({text[:300]}); try again, with fewer other "
                             "processes or more memory") from error  # fmt: skip
        cure = "check that it runs there"
        if address.startswith("ray://"):
            cure += " and, if it wants a token, that RAY_AUTH_MODE=token is set here and ~/.ray/auth_token is its own"
        raise ValueError(f"cluster '{address}': no connection ({text[:300]}); {cure}") from error


def _await(address: str) -> None:
    """Wait until somebody listens at `ray://host:port`."""
    host, port = _host_and_port(address)
    give_up = time.monotonic() + WAIT_S
    while True:
        try:
            return socket.create_connection((host, port), timeout=WAIT_S).close()
        except OSError as error:
            if time.monotonic() > give_up or isinstance(error, socket.gaierror):
                raise ValueError(
                    f"cluster '{address}': no answer within {WAIT_S:.0f} s ({error.strerror or error}); check that "
                    "the head node runs (`ray status` there) and that its client port is open"
                ) from error
            time.sleep(0.5)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("ray://").partition(":")
    with contextlib.suppress(UnicodeError):  # a name with an empty or a very long part, as in a..b
        if host.encode("idna") and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 2**16:
            return host, int(port)
    raise ValueError(f"cluster '{address}': expected ray://host:port, e.g. ray://head:10001")


def refuse_other_callbacks(callbacks: Iterable[Any]) -> None:
    """Check that all of them are Ray Tune's.

    Raises:
        ValueError: If one is something else.
    """
    if importlib.util.find_spec("ray") is None:
        return  # as will be said of all that needs it
    from ray.tune import Callback

    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ValueError(f"callbacks: expected ray.tune.Callback objects, got {callback!r:.60}")
