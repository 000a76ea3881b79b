"""What a trace writes down: the companion ids of every activation, and which ids live on which tensor axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.attributes import Claim, Divisible, Laws, counts_heads
from search_spaces.calls import Call, Calls
from search_spaces.channels import Channels
from search_spaces.companions import along, constant, line_of, squeeze, varying
from search_spaces.contents import is_inexact, kept_in, named_tensors, tensors_in
from search_spaces.counts import Attribute, ChannelCount, Size, Terms, plain
from search_spaces.graph import Graph
from search_spaces.operators import quietly
from search_spaces.views import ParameterView

ATTRIBUTE = "_channel_ids"  # of a traced tensor: (its recorder, companion)
FILLED = "_filled"  # of a traced tensor: (its recorder, whether all of it is) if the code has filled it (see filled.py)
MADE = frozenset(("out", "declared"))  # roles of what makes channels
BARE = frozenset(("free",))  # that of what only has them


class Recorder:
    """The state of one trace; the rules read and write it.

    Attributes:
        channels: All ids.
        laws: What the sizes in attributes of modules follow.
        axes: (tensor name, axis) -> (roles, ids [n]) in order of first use.
        calls: The layers that multiply.
        grouped: Grouped convolution -> entries of axis 0 of its weight per group.
        products: Module -> numbers given to what has summed over an axis in it (not in modules inside it): one to each
            matrix product, one to each axis of what was reduced.
        run_before: Modules in which products ran in an earlier pass, where they are known by number.
        several: Ids of axes that must keep at least two positions.
        heads: Ids that are whole heads of attention.
        path: Names of the modules being run, innermost last.
        checked: True while a function runs whose use of sizes has been examined (see rules.sizes).
        opaque: Depth of regions whose insides are not traced.
        closed: Reasons of the opaque regions that freeze what enters them; their multiply-adds are counted as they are.
        doing: The function or operator that is running.
        batch: Samples in the example input; layers are priced per sample.
        input_axis: Axis of the first input on which channels may go; None: the inputs stay.
        graph: The operations of the first pass.
        asks_mode: Has the network's own code asked whether it is in training?
        seen: How many ATen operators have run.
        made: How many of them have made memory that anything may be written into.
        reached: Parameters that some rule has met.
        obstacles: Module whose weight no rule can cut, and how many channels it makes -> why.
        whole: (parameter or buffer, axis) that must keep its size -> why.
        hollow: Tensor without elements (by its address) -> it, and a companion with one position where it has none.
        guarded: Tensor (by its address) that depends on channels in a way that no companion says -> it, them, why.
        tried: Bare parameter -> how many of its axes were taken for that of its channels, in traces before this one;
            layer with groups -> 1 where it is to lose the other kind of units.
        misunderstood: Bare parameters whose channels seem to lie along another axis.
        views: Parameters that have been turned about, by the address of the view.
        unchecked: What would examine the sizes of the function that runs, if it were not a view of a parameter.
        shapes: Of parameters and buffers.
        worked_out: (Module, number) -> what its code has made of sizes that can be followed, but not what came of them.
        staying: (Module, number) of axes that no channel lives on, of which its code has asked the size.
        before: Is asked about each operator, with its arguments, before it runs.
        whole_or_alike: Layers with groups that may lose whole groups, or the same channels of every group.
    """

    def __init__(self, model: nn.Module, tried: Mapping[str, int] | None = None) -> None:
        self.before: Callable[..., None] = lambda *_: None
        self.channels = Channels()
        self.laws = Laws(self.channels)
        self.axes: dict[tuple[str, int], tuple[list[str], Tensor]] = {}
        self.calls = Calls()
        self.grouped: dict[str, int] = {}
        self.products: Counter[str] = Counter()
        self.run_before: set[str] = set()
        self.several: list[Tensor] = []
        self.heads: list[Tensor] = []
        self.path: list[str] = [""]
        self.checked = False
        self.opaque = 0
        self.closed: list[str] = []
        self.doing: Any = None
        self.channels.place = lambda: "" if self.doing is None else f"{name_of(self.doing)} in {self.where}"
        self.batch = 1
        self.inputs: Mapping[str, int] = {}  # of the network, whose channels may go along an axis, by name
        self.asks_mode = any(type(m).train is not nn.Module.train for m in model.modules())
        self.seen = self.made = 0
        self.modules = dict(model.named_modules())
        # The tensors are held, because they are known by their address.
        self.tensors = named_tensors(model)
        self.names: dict[int, str] = {}
        for name, tensor in self.tensors:
            self.names.setdefault(id(tensor), name)
        self.graph = Graph(self.names, self.companion)
        self.graph.know([kept_in(module) for module in self.modules.values()])
        self.reached: set[str] = set()
        self.tried = dict(tried or {})
        self.misunderstood: set[str] = set()
        self.worked_out: dict[tuple[str, int], str] = {}
        self.staying: set[tuple[str, int]] = set()
        self.whole_or_alike: set[str] = set()
        self.views: dict[int, ParameterView] = {}
        self.unchecked: Callable[[], None] | None = None
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors}
        self.obstacles: dict[tuple[str, int], str] = {}
        self.whole: dict[tuple[str, int], str] = {}
        self.hollow: dict[int, tuple[Tensor, Tensor]] = {}
        self.guarded: dict[int, tuple[Tensor, Tensor, str]] = {}
        self._sizes: dict[tuple[str, int], Tensor] = {}
        self._changes = 0  # of `axes`
        self._lines: dict[tuple[frozenset[str], int], tuple[NDArray[np.object_], NDArray[np.int64]]] = {}

    def __deepcopy__(self, memo: Any) -> Recorder:
        return self  # a network may copy a tensor that carries its companion

    # -- where we are --------------------------------------------------------------------------------------------
    def restart(self) -> None:
        """Before another forward pass: no module is running."""
        self.path, self.opaque, self.closed, self.checked = [""], 0, [], False
        self.run_before |= self.products.keys()
        self.products.clear()

    @property
    def trusted(self) -> bool:
        """Is the running code PyTorch's own, which compares sizes with attributes that shrink along?"""
        return type(self.modules[self.path[-1]]).__module__.startswith("torch.nn.modules")

    @property
    def where(self) -> str:
        """The innermost running module, for messages."""
        return f"'{self.path[-1]}'" if self.path[-1] else "the model"

    @contextmanager
    def inside(self, *, opaque: bool = False, checked: bool = False) -> Iterator[None]:
        """Run something whose insides are not traced, or whose use of sizes has been examined."""
        before = self.checked
        self.opaque += opaque
        self.checked = checked or before
        try:
            yield
        finally:
            self.opaque -= opaque
            self.checked = before

    def name_of(self, tensor: Any) -> str | None:
        """State-dict name of a parameter or buffer, None for anything else."""
        name = self.names.get(id(tensor))
        if name is not None:
            self.reached.add(name)
        return name

    # -- companions ----------------------------------------------------------------------------------------------
    def companion(self, tensor: Tensor) -> Tensor | None:
        """The companion that a traced activation carries, if any."""
        owner, ids = getattr(tensor, ATTRIBUTE, (None, None))
        return ids if owner is self else None

    def ids(self, tensor: Tensor) -> Tensor:
        """The companion of `tensor`, same shape; zeros for a constant."""
        found = self.companion(tensor)
        if found is not None and found.shape == tensor.shape:
            return found
        if (name := self.names.get(id(tensor))) is not None:
            return self._ids_of_parameter(name, tensor)
        if (view := self.views.pop(id(tensor), None)) is not None:
            view.resolve()
            return self.ids(tensor)
        return constant(tensor.shape)

    def view_of(self, tensor: Any) -> ParameterView | None:
        """A parameter with two axes or more, as its own view; or what has been made of one by turning it about."""
        if (view := self.views.get(id(tensor))) is not None:
            return view
        name = self.names.get(id(tensor))
        if name is None or not is_inexact(tensor) or sum(n > 1 for n in tensor.shape) < 2:
            return None
        return ParameterView.of(name, tensor)

    def _ids_of_parameter(self, name: str, tensor: Tensor) -> Tensor:
        """A bare parameter moved about: its ids are taken to lie along one axis.

        That is its only axis longer than 1, axis 1 of an image-like table, else the last; or another one where that
        has been tried. Should the code use another axis as channels, they meet a constant there and are frozen.
        """
        long = [d for d, n in enumerate(tensor.shape) if n > 1]
        known = [d for d in range(tensor.dim()) if (name, d) in self.axes]
        if not long or not is_inexact(tensor) or len(known) > 1:
            self.freeze_tensor(name, tensor.dim(), f"parameter '{name}' is used in a way that is not understood")
            return constant(tensor.shape)
        likely = long[0] if len(long) == 1 else 1 if tensor.dim() == 4 else tensor.dim() - 1
        order = sorted(long, key=lambda d: (d != likely, -d))
        axis = known[0] if known else order[self.tried.get(name, 0) % len(order)]
        if not known:
            self.reached.add(name)
            self.register(name, axis, self.channels.allocate(tensor.shape[axis]), "free")
        for d in set(long) - {axis}:
            self.whole.setdefault((name, d), f"parameter '{name}' is used in a way that is not understood")
        return along(self.axes[name, axis][1], axis, tensor.shape)

    def set(self, tensor: Any, companion: Tensor | None) -> None:
        """Give `tensor` its companion."""
        if isinstance(tensor, Tensor) and id(tensor) not in self.names:
            self.graph.mark(tensor, ATTRIBUTE, (self, companion))
            self.graph.identify(tensor, companion)
            if companion is not None and companion.shape == tensor.shape and not tensor.numel():
                self._keep_sizes(tensor, companion)

    @quietly
    def read(self, tensor: Tensor, axis: int, why: str = "") -> Tensor:
        """The ids along `axis`, [n]: what a layer that mixes this axis reads. Ids at one index are united."""
        ids = squeeze(self.ids(tensor) if tensor.numel() else self.sizes_of_empty(tensor)).movedim(axis, 0)
        ids = ids.reshape(ids.shape[0], -1)
        first = ids[:, 0]
        if ids.shape[1] > 1:
            self.channels.unite(first[:, None].expand_as(ids), ids, why or f"{self.where} reads it beside a constant")
        return first.expand(tensor.shape[axis]) if first.numel() == 1 else first

    @quietly
    def varying(self, tensor: Tensor) -> list[int]:
        """Axes along which the ids differ, as far as they are not united yet."""
        return self._apart(self.ids(tensor))

    def _apart(self, ids: Tensor) -> list[int]:
        axes = varying(ids)
        return axes if len(axes) < 2 else varying(self.channels.canonical(ids))

    def freeze(self, ids: Tensor, why: str) -> None:
        """Forbid the removal of `ids`."""
        self.channels.freeze(ids, why)

    def freeze_all(self, values: Any, why: str) -> None:
        """Forbid the removal of every channel found in the tensors within `values`."""
        self.see(values)
        for tensor in tensors_in(values):
            if (name := self.names.get(id(tensor))) is not None:
                self.freeze_tensor(name, tensor.dim(), why)
            elif (view := self.views.get(id(tensor))) is not None:
                for name in view.names:
                    self.freeze_tensor(name, len(self.shapes[name]), why)
            elif (ids := self.companion(tensor)) is not None:
                self.freeze(ids, why)

    def guard(self, tensor: Tensor, ids: Tensor, why: str) -> None:
        """Forbid the removal of `ids` should `tensor` be used."""
        self.guarded[id(tensor)] = tensor, ids, why

    def empty(self, tensor: Tensor, companion: Tensor) -> None:
        """Of a tensor without elements: a companion with one position where it has none."""
        self.hollow[id(tensor)] = tensor, companion

    def sizes_of_empty(self, tensor: Tensor) -> Tensor:
        """Its companion as `empty` has noted it; without, it keeps its sizes."""
        found = self.hollow.get(id(tensor))
        return constant([max(n, 1) for n in tensor.shape]) if found is None else found[1]

    def _keep_sizes(self, tensor: Tensor, companion: Tensor) -> None:
        """Of an empty companion that was spread, what was spread is still there."""
        shape, strides = [max(n, 1) for n in tensor.shape], companion.stride()
        last = companion.storage_offset() + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if last * companion.element_size() < companion.untyped_storage().nbytes():
            self.empty(tensor, companion.as_strided(shape, strides))

    def see(self, values: Any, *, joined: bool = False) -> None:
        """The tensors within `values` are used; `joined`: laid side by side, as those without elements may be."""
        if self.guarded or self.hollow:
            for tensor in tensors_in(values):
                if (found := self.guarded.get(id(tensor))) is not None:
                    self.freeze(found[1], found[2])
                if not joined and (sizes := self.hollow.get(id(tensor))) is not None:
                    self.freeze(sizes[1], f"a tensor without elements is used in {self.where}")

    def freeze_tensor(self, name: str, dims: int, why: str) -> None:
        """Forbid the removal of every channel on a parameter or buffer, now and later."""
        for axis in range(dims):
            self.keep_whole(name, axis, why)

    def keep_whole(self, name: str, axis: int, why: str) -> None:
        """The same of one axis."""
        self.whole.setdefault((name, axis), why)
        if (known := self.axes.get((name, axis))) is not None:
            self.freeze(known[1], why)

    def is_bare(self, ids: Tensor) -> bool:
        """Do these channels live on bare parameters and buffers only, and does no layer make them?"""
        return not self.made_with(ids)

    def made_with(self, ids: Tensor) -> int:
        """How many channels that layers make are these, or would go with them (all those of a head, say)?"""
        roots = self.channels.roots
        made = np.bincount(roots[self._known(MADE)[1]], minlength=len(roots))
        return int(made[np.unique(roots[squeeze(ids).reshape(-1).numpy()])].sum())

    def misread(self, ids: Tensor, why: str) -> None:
        """Freeze channels of bare parameters, which may lie along another of their axes than was taken for theirs."""
        self.freeze(ids, why)
        found = np.zeros(len(self.channels.roots), bool)
        found[squeeze(ids).reshape(-1).numpy()] = True
        names, known = self._known(BARE)
        self.misunderstood |= set(names[found[known]])

    def _known(self, roles: frozenset[str]) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
        """The ids on all axes of these roles (alone, if that is "free"), and the tensor of each."""
        key = roles, self._changes
        if key not in self._lines:
            here = [(name, ids.numpy()) for (name, _), (said, ids) in self.axes.items()
                    if (roles.issuperset(said) if roles is BARE else not roles.isdisjoint(said))]  # fmt: skip
            names = np.repeat(np.array([n for n, _ in here], object), [len(ids) for _, ids in here])
            self._lines[key] = names, np.concatenate([np.zeros(0, np.int64), *(ids for _, ids in here)])
        return self._lines[key]

    def to_try_again(self) -> dict[str, int]:
        """Misunderstood parameters with another axis to try -> how many were tried."""
        shapes = {name: tensor.shape for name, tensor in self.tensors}
        tried = {name: self.tried.get(name, 0) + 1 for name in self.misunderstood}
        return {name: n for name, n in tried.items() if n < sum(size > 1 for size in shapes[name])}

    def loses_whole_groups(self, owner: str, number: int, per_group: int) -> bool:
        """Of a layer with `number` groups: whichever makes the smaller units, unless the other kind is to be tried."""
        self.whole_or_alike.add(owner)
        return (number >= per_group) != bool(self.tried.get(owner))

    # -- sizes ---------------------------------------------------------------------------------------------------
    def claim(self, terms: Terms, ids: Tensor | None, why: str) -> None:
        """The product of `terms` always equals the number of `ids` (without: it never changes), or else all freeze."""
        self.laws.claims.append(Claim(terms, ids, why))

    def resolve(self) -> None:
        """After the last pass: what all sizes follow, and which channels are frozen for what was promised of them."""
        self.doing = None
        self.laws.resolve()
        self.channels.resolve()
        self.laws.resolve()  # a frozen line is a constant
        self.laws.make_whole(self._value_of)
        self.laws.resolve()
        for attribute, ids in self.laws.follows.items():
            self.register(str(attribute), len(ids), ids, "attribute")
            if counts_heads(((attribute, 1),)):
                self.heads.append(ids)

    def _value_of(self, attribute: Attribute) -> int | None:
        value = vars(self.modules[attribute.module]).get(attribute.name)
        if attribute.item is not None:
            value = value[attribute.item] if isinstance(value, (list, tuple)) else None
        return plain(value) if isinstance(value, int) else None

    def note(self, number: int, how: str) -> None:
        """A number was worked out of sizes, and is followed no more."""
        self.worked_out.setdefault((self.path[-1], number), how)

    def promise(self, left: ChannelCount, right: ChannelCount, why: str) -> None:
        """Two counts are equal whatever is pruned, or else frozen."""
        self.channels.promise(left.ids, left.factor, right.ids, right.factor, why)

    def promise_divisible(self, count: ChannelCount | Size, divisor: int, why: str) -> None:
        """A count is divisible whatever is pruned, or else frozen."""
        if isinstance(count, Size):
            self.laws.divisible.append(Divisible(count.terms, divisor, why))
        else:
            self.channels.promise(count.ids, count.factor, None, Fraction(1, divisor), why)

    @quietly
    def size(self, tensor: Tensor, axis: int) -> int:
        """The size of an axis: a count where channels live on it."""
        name = self.names.get(id(tensor))
        if name is None:
            return self.sizes(tensor)[axis]
        if tensor.shape[axis] == 1:
            return 1
        known = self.axes.get((name, axis))
        if known is None:  # a later use of the parameter tells which channels these are
            ids = self.asked((name, axis), tensor.shape[axis])
        return ChannelCount.of(known[1] if known else ids, self)

    def asked(self, place: tuple[str, int], size: int) -> Tensor:
        """The ids on an axis of a parameter of which only a later use tells which channels they are."""
        return self._sizes.setdefault(place, self.channels.allocate(size))

    @quietly
    def sizes(self, tensor: Tensor) -> list[int]:
        """The sizes of all axes."""
        if id(tensor) in self.names:
            return [self.size(tensor, d) for d in range(tensor.dim())]
        if (view := self.views.get(id(tensor))) is not None and view.has_own_axes:
            return [self._size_of_view(view, group) for group in view.axes]
        found = list(tensor.shape)
        ids = self.ids(tensor) if tensor.numel() else self.sizes_of_empty(tensor)
        for d in self._apart(ids):
            found[d] = ChannelCount.of(line_of(ids, d), self)
        return found

    def _size_of_view(self, view: ParameterView, axes: tuple[int, ...]) -> int:
        if not axes or not view.places[axes[0]]:
            return view.shape[axes[0]] if axes else 1
        place = view.places[axes[0]][0]
        known = self.axes.get(place)
        return ChannelCount.of(known[1] if known else self.asked(place, view.shape[axes[0]]), self)

    def filling(self, tensor: Tensor) -> bool | None:
        """Has the code filled all of a tensor? None where it has filled nothing of it."""
        owner, whole = getattr(tensor, FILLED, None) or (None, None)
        return whole if owner is self else None

    @quietly
    def mix(self, tensor: Tensor, axis: int) -> Tensor:
        """The ids along `axis`, [n], as a layer reads them that sums over them; they stay if no data is in them."""
        ids = self.read(tensor, axis)
        if self.filling(tensor) and bool(tensor.any()):
            self.freeze(ids, f"{self.where} reads a tensor without data")
        return ids

    # -- tensor axes ---------------------------------------------------------------------------------------------
    @quietly
    def register(self, name: str, axis: int, ids: Tensor, role: str) -> Tensor:
        """Note that `ids` live on one axis of a tensor; a second use unites. Returns the ids."""
        known = self.axes.get((name, axis))
        if known is None:
            self.axes[name, axis] = ([role], ids)
            self._changes += 1
            if (asked := self._sizes.pop((name, axis), None)) is not None:
                self.channels.unite(ids, asked, f"the size of '{name}' is used beside a constant")
            if (name, axis) in self.whole:
                self.freeze(ids, self.whole[name, axis])
            return ids
        roles, first = known
        if role not in roles:
            roles.append(role)
            self._changes += 1
        self.channels.unite(first, ids, f"'{name}' is used twice, once with a constant")
        return first

    def makes(self, name: str, axis: int, size: int) -> Tensor:
        """The ids that a filter tensor makes on `axis`: new ones at its first use."""
        known = self.axes.get((name, axis))
        return self.register(name, axis, known[1] if known else self.channels.allocate(size), "out")

    def multiplies(
        self,
        kind: str,
        *,
        kernel: float,
        pixels: float,
        reads: Tensor | int,
        makes: Tensor | int,
        owner: str | None = None,
    ) -> None:
        """Note a layer of `pixels * kernel * reads * makes` multiply-adds (calls of the same layer add up)."""
        self.calls.add(self.path[-1] if owner is None else owner, Call(kind, kernel, pixels, reads, makes))

    def contracts(self, ids: Tensor, back: int = 0) -> None:
        """Note that the product or reduction now running sums over the channels `ids` [n].

        Args:
            ids: Which channels.
            back: Numbers that were given after its own.
        """
        if self.path[-1] not in self.run_before:
            self.register(self.path[-1], self.products[self.path[-1]] - back, ids, "product")


def name_of(function: Any) -> str:
    """A readable name of a function of the torch API or of an ATen operator."""
    packet = getattr(function, "overloadpacket", None)
    return str(getattr(packet or function, "__name__", function)).strip("_")
