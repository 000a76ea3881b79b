"""What is cheap and what is good: costs, budgets, Pareto fronts."""

from objectives.budget import Budget as Budget
from objectives.costs import Activations as Activations
from objectives.costs import ArithmeticCost as ArithmeticCost
from objectives.costs import Cost as Cost
from objectives.costs import Macs as Macs
from objectives.costs import Params as Params
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
from objectives.parsing import parse as parse
from objectives.plugins import find as find
from objectives.registry import COSTS as COSTS
from objectives.registry import cost as cost
from objectives.target import Target as Target
from objectives.target import is_latency as is_latency
from objectives.unreachable import InfeasibleBudget as InfeasibleBudget
