"""A CUDA graph that is pretended: what a function has asked for is written down, and done again to the same tensors.

As in a real one Python runs once, numbers and addresses stay what they were, and what looks at a value is refused.
"""

import torch
from pretend import WAITS, OneByOne
from torch.utils._pytree import tree_leaves


class Recorder(OneByOne):
    """Notes all operators, with their tensors, and what stood in tensors that were there before."""

    def __init__(self):
        super().__init__()
        self.done, self.before, self.made = [], [], set()

    def run(self, func, args, kwargs):
        if func.overloadpacket.__name__ in WAITS:
            raise RuntimeError("operation not permitted when stream is capturing")
        for tensor in tensors((args, kwargs)):
            if key(tensor) not in self.made:
                self.before.append((tensor, tensor.clone()))
                self.made.add(key(tensor))
        found = func(*args, **kwargs)
        self.made.update(map(key, tensors(found)))
        if tensors(found):
            self.done.append((func, args, kwargs, found))
        return found


def key(tensor):
    return tensor.untyped_storage().data_ptr()


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class PretendedCapture:
    """See `autoprune.graphs.Capture`; it counts what was captured and replayed."""

    def __init__(self):
        self.captured = self.replayed = 0

    def aside(self, run):
        return run()

    def capture(self, run):
        with torch.random.fork_rng(), Recorder() as seen:
            answer = run()
        with torch.no_grad():
            for tensor, value in seen.before:  # while it is captured nothing is computed
                tensor.copy_(value)
        self.captured += 1

        def replay():
            self.replayed += 1
            with torch.no_grad():
                for func, args, kwargs, found in seen.done:
                    for old, new in zip(tensors(found), tensors(func(*args, **kwargs)), strict=True):
                        if key(old) != key(new):
                            old.copy_(new)

        return replay, answer
