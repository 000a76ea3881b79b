"""A GPU that is pretended: tensors that say "cuda:1" and compute on the CPU, so that every path for a GPU can run.

As on a real one, tensors of two devices do not meet in one operation (a single number may), and what brings numbers to
the host waits, or to the device without leave to go on. Both are counted, with all kernels that would be launched.
"""

import ctypes
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.utils._pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode

# What only looks at the same memory in another way, or makes room, launches nothing.
FREE = frozenset(
    "view _unsafe_view t transpose permute expand slice select detach alias as_strided unsqueeze squeeze split "
    "split_with_sizes unbind diagonal unfold lift_fresh empty empty_like empty_strided new_empty "
    "new_empty_strided".split()
)
WAITS = frozenset(
    "_local_scalar_dense is_nonzero nonzero equal linalg_cholesky linalg_eigh _linalg_check_errors".split()
)


class OneByOne(TorchDispatchMode):
    """Sees all operators in the pieces that are run."""

    def run(self, func, args, kwargs):
        """One of them."""
        raise NotImplementedError

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:
            found = func.decompose(*args, **kwargs)  # in inference mode operators arrive in one piece
        return self.run(func, args, kwargs) if found is NotImplemented else found


class Kernels(OneByOne):
    """Counts what would be launched on a GPU, operator by operator."""

    def __init__(self):
        super().__init__()
        self.launched = Counter()

    @property
    def total(self):
        return sum(self.launched.values())

    def count(self, func, args):
        name = func.overloadpacket.__name__
        if name in FREE or name in WAITS:
            return
        others = args[1] if len(args) > 1 and name.startswith("_foreach") else None
        pairs = isinstance(others, (list, tuple)) and others and isinstance(others[0], torch.Tensor)
        uneven = pairs and any(a.shape != b.shape for a, b in zip(args[0], others, strict=True))
        self.launched[name] += len(args[0]) if uneven else 1  # those of unequal shapes go one by one

    def run(self, func, args, kwargs):
        self.count(func, args)
        return func(*args, **kwargs)


class There(torch.Tensor):
    """A tensor on the pretended device; `inner` holds its numbers."""

    @staticmethod
    def __new__(cls, inner, device):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=device, requires_grad=False, **layout)
        made.inner = inner
        return made

    def __repr__(self):
        return f"There({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func}: outside the pretended device")


def look_for_no_driver():
    """Where no CUDA device is, going to one does nothing."""
    if hasattr(torch._C, "_ensureCUDADeviceGuardSet"):
        torch._C._ensureCUDADeviceGuardSet()
    elif torch._C._cuda_getDeviceCount() == 0:  # PyTorch 2.7 does not offer it: by hand, what it does since
        cuda, meta = 1, 14  # c10/core/DeviceType.h
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        guards = (ctypes.c_void_p * (meta + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
        guards[cuda] = guards[meta]  # which does nothing


class Device(Kernels):
    """In this context the pretended device is there."""

    def __init__(self):
        super().__init__()
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE  # so that torch looks for no driver
        self.to_host = self.to_device = 0

    def __enter__(self):
        look_for_no_driver()
        self._before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self._before)
        return super().__exit__(*error)

    def clear(self):
        self.launched.clear()
        self.to_host = self.to_device = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        with self:
            found = func.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
        name = func.overloadpacket.__name__
        flat, form = trees.tree_flatten((args, kwargs))
        there = [t for t in flat if isinstance(t, There)]
        here = [t for t in flat if isinstance(t, torch.Tensor) and not isinstance(t, There) and t.dim()]
        devices = {t.device for t in there}
        if len(devices) > 1 or (there and here and name not in ("copy_", "_to_copy")):
            raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got "
                               f"{sorted(map(str, devices | {t.device for t in here}))}")  # fmt: skip
        wanted = kwargs.get("device")
        home = torch.device(wanted) if wanted is not None else next(iter(devices), torch.device("cpu"))
        if home.type == "cuda":
            self.count(func, args)
        waits = not kwargs.get("non_blocking") and not (name == "copy_" and len(args) > 2 and args[2])
        if name == "copy_":
            self.to_host += bool(there) and not isinstance(args[0], There)
            self.to_device += bool(there) and not isinstance(args[1], There) and args[1].dim() > 0 and waits
            home = args[0].device
        self.to_host += bool(there) and (name in WAITS or (name == "_to_copy" and home.type == "cpu"))
        self.to_device += bool(here) and name == "_to_copy" and home.type == "cuda" and waits
        inner, options = trees.tree_unflatten([t.inner if isinstance(t, There) else t for t in flat], form)
        if wanted is not None:
            options["device"] = torch.device("cpu")
        if "pin_memory" in options:
            options["pin_memory"] = None
        found = func(*inner, **options)
        if name == "_to_copy" and any(found is t.inner for t in there):
            found = found.clone()
        if home.type != "cuda":
            return found
        known = {id(t.inner): t for t in there}  # what is changed in place stays the same tensor
        return trees.tree_map_only(torch.Tensor, lambda t: known[id(t)] if id(t) in known else There(t, home), found)


class Event:
    """Of a stream that is always up to date."""

    def __init__(self, enable_timing=False):
        pass

    def record(self, stream=None):
        pass

    def elapsed_time(self, other):
        return 1.0


@contextmanager
def pretended(patch, memory=80 * 2**30):
    """The device, while a `pytest.MonkeyPatch` lasts: "cuda:1" of two.

    Args:
        patch: Takes back what is said of the device.
        memory: Of it, bytes.
    """
    about = SimpleNamespace(total_memory=memory, name="pretended", major=9, minor=0)
    generators = tuple(torch.Generator().manual_seed(i) for i in range(2))

    def generator(device="cuda"):
        return generators[torch.device(device).index or 0]

    for name, value in {
        "default_generators": generators, "current_device": lambda: 0, "_lazy_init": lambda: None,
        "get_rng_state": lambda device="cuda": generator(device).get_state(),
        "set_rng_state": lambda state, device="cuda": generator(device).set_state(state),
        "is_available": lambda: True, "device_count": lambda: 2, "get_device_properties": lambda device=None: about,
        "get_device_capability": lambda device=None: (9, 0), "synchronize": lambda device=None: None, "Event": Event,
        "current_stream": lambda device=None: None, "get_device_name": lambda device=None: "pretended",
        "mem_get_info": lambda device=None: (memory, memory), "empty_cache": lambda: None,
        "is_bf16_supported": lambda *a: True, "is_current_stream_capturing": lambda: False,
    }.items():  # fmt: skip
        patch.setattr(torch.cuda, name, value)
    patch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor)
    # Tensors of inference mode are of another make, which no subclass can be.
    patch.setattr(torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else nullcontext())
    cudnn, overwrite = torch._C._get_cudnn_enabled(), torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._set_cudnn_enabled(False)  # its operators exist on GPUs only
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with Device() as device:
            yield device
    finally:
        torch._C._set_cudnn_enabled(cudnn)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
