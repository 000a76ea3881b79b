"""Methods that prune while a network trains: one file each. The import lines are the registry."""

from autoprune.training.methods.cut import Cut as Cut
from autoprune.training.methods.method import Method as Method
from autoprune.training.methods.method import Plan as Plan
from autoprune.training.methods.method import Pruning as Pruning
from autoprune.training.methods.method import Step as Step
from autoprune.training.methods.sandwich import Sandwich as Sandwich

METHODS: dict[str, type[Method]] = {
    c.name: c for c in list(globals().values()) if isinstance(c, type) and issubclass(c, Method) and hasattr(c, "name")
}
