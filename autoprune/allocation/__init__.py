"""Closed-form widths: one answer from the scores and the costs, before anything runs."""

from autoprune.allocation.global_ranking import global_ranking as global_ranking
from autoprune.allocation.knapsack import knapsack as knapsack
from autoprune.allocation.uniform import uniform as uniform
