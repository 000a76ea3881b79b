"""What is cheap and what is good: costs, budgets, quality, Pareto fronts. The import lines are the registry."""

from objectives.budget import Budget as Budget
from objectives.budget import parse as parse
from objectives.costs import Activations as Activations
from objectives.costs import ArithmeticCost as ArithmeticCost
from objectives.costs import Cost as Cost
from objectives.costs import Macs as Macs
from objectives.costs import Params as Params
from objectives.costs import cost as cost
from objectives.costs import is_latency as is_latency
from objectives.feasibility import Feasibility as Feasibility
from objectives.feasibility import Reachable as Reachable
from objectives.given import Given as Given
from objectives.given import is_lost as is_lost
from objectives.given import named as named
from objectives.given import offered as offered
from objectives.given import offering as offering
from objectives.pareto import contribution as contribution
from objectives.pareto import dominates as dominates
from objectives.pareto import front as front
from objectives.pareto import growth as growth
from objectives.pareto import hypervolume as hypervolume
from objectives.pareto import parse_metrics as parse_metrics
from objectives.plugins import find as find
from objectives.quality import CLASSIFICATION as CLASSIFICATION
from objectives.quality import METRICS as METRICS
from objectives.quality import Metric as Metric
from objectives.quality import agreement as agreement
from objectives.quality import check_labels as check_labels
from objectives.quality import loss as loss
from objectives.quality import measure as measure
from objectives.quality import resolve_metric as resolve_metric
from objectives.quality import top1 as top1
from objectives.unreachable import InfeasibleBudget as InfeasibleBudget

COSTS: dict[str, type[Cost]] = {
    c.name: c for c in list(globals().values()) if isinstance(c, type) and issubclass(c, Cost) and hasattr(c, "name")
}
