"""Methods that prune while a network trains: one file each. The import lines are the registry."""

from autoprune.training.methods.asfp import Asfp as Asfp
from autoprune.training.methods.asrfp import Asrfp as Asrfp
from autoprune.training.methods.chex import Chex as Chex
from autoprune.training.methods.cut import Cut as Cut
from autoprune.training.methods.greg1 import GReg1 as GReg1
from autoprune.training.methods.greg2 import GReg2 as GReg2
from autoprune.training.methods.increg import IncReg as IncReg
from autoprune.training.methods.iss import Iss as Iss
from autoprune.training.methods.method import Method as Method
from autoprune.training.methods.method import Plan as Plan
from autoprune.training.methods.method import Pruning as Pruning
from autoprune.training.methods.method import Step as Step
from autoprune.training.methods.orthoreg import OrthoReg as OrthoReg
from autoprune.training.methods.polarization import Polarization as Polarization
from autoprune.training.methods.sandwich import Sandwich as Sandwich
from autoprune.training.methods.sfp import Sfp as Sfp
from autoprune.training.methods.slimming import Slimming as Slimming
from autoprune.training.methods.srfp import Srfp as Srfp
from autoprune.training.methods.tpp import Tpp as Tpp

METHODS: dict[str, type[Method]] = {
    c.name: c for c in list(globals().values()) if isinstance(c, type) and issubclass(c, Method) and hasattr(c, "name")
}
