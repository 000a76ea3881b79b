"""Methods that prune while a network trains: one file each. The import lines are the registry."""

from contextlib import nullcontext
from typing import Any

from autoprune.training.methods.asfp import Asfp as Asfp
from autoprune.training.methods.asrfp import Asrfp as Asrfp
from autoprune.training.methods.chex import Chex as Chex
from autoprune.training.methods.cut import Cut as Cut
from autoprune.training.methods.early_bird import EarlyBird as EarlyBird
from autoprune.training.methods.epi import Epi as Epi
from autoprune.training.methods.fisher import Fisher as Fisher
from autoprune.training.methods.gap import Gap as Gap
from autoprune.training.methods.gates import Gates as Gates
from autoprune.training.methods.gdp import Gdp as Gdp
from autoprune.training.methods.greg1 import GReg1 as GReg1
from autoprune.training.methods.greg2 import GReg2 as GReg2
from autoprune.training.methods.imp import Imp as Imp
from autoprune.training.methods.increg import IncReg as IncReg
from autoprune.training.methods.iss import Iss as Iss
from autoprune.training.methods.limits import check_settings
from autoprune.training.methods.mest import Mest as Mest
from autoprune.training.methods.method import Method as Method
from autoprune.training.methods.method import Plan as Plan
from autoprune.training.methods.method import Pruning as Pruning
from autoprune.training.methods.method import Step as Step
from autoprune.training.methods.morphnet import MorphNet as MorphNet
from autoprune.training.methods.nested import Nested as Nested
from autoprune.training.methods.orthoreg import OrthoReg as OrthoReg
from autoprune.training.methods.polarization import Polarization as Polarization
from autoprune.training.methods.reweighted import Reweighted as Reweighted
from autoprune.training.methods.sandwich import Sandwich as Sandwich
from autoprune.training.methods.sfp import Sfp as Sfp
from autoprune.training.methods.slimming import Slimming as Slimming
from autoprune.training.methods.srfp import Srfp as Srfp
from autoprune.training.methods.threshold import Threshold as Threshold
from autoprune.training.methods.tpp import Tpp as Tpp
from objectives import find
from objectives.plugins import running

METHODS: dict[str, type[Method]] = {
    c.name: c for c in list(globals().values()) if isinstance(c, type) and issubclass(c, Method) and hasattr(c, "name")
}


def make(name: str, pruning: Pruning | None = None, **settings: Any) -> Method:
    """The method called `name`, or the subclass of `Method` or function "package.module:Name".

    Args:
        name: "greg1", "slimming", ..., or "package.module:Name".
        pruning: What it may prune.
        **settings: Its own.

    Raises:
        ValueError: If there is none, it has no such setting, or what the name stands for makes none.
    """
    if name in METHODS:
        check_settings(METHODS[name], settings)
    with running(f"method '{name}'", "while it was made") if ":" in name else nullcontext():
        made = find("method", name, METHODS)(pruning, **settings)
    if not isinstance(made, Method):
        raise ValueError(f"method '{name}': expected a subclass of autoprune.training.Method, or a function of what "
                         f"may be pruned that gives one, got {made!r:.60}")  # fmt: skip
    return made
