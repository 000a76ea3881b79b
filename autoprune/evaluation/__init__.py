"""Widths to metrics, at a fidelity."""

from autoprune.evaluation.evaluator import Evaluator as Evaluator
from autoprune.evaluation.passes import measure as measure
from autoprune.evaluation.passes import measure_by_class as measure_by_class
from autoprune.evaluation.plan import EvaluationPlan as EvaluationPlan
from autoprune.evaluation.settings import EvaluationSettings as EvaluationSettings
from autoprune.evaluation.together import Together as Together
from autoprune.evaluation.validation import Goal as Goal
from autoprune.evaluation.validation import validate as validate
