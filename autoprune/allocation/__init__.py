"""Closed-form widths: one answer from the scores, the costs, or a scan of what each group alone loses."""

from autoprune.allocation.bottlenecks import without_bottlenecks as without_bottlenecks
from autoprune.allocation.closing import closing_order as closing_order
from autoprune.allocation.closing import closings as closings
from autoprune.allocation.exemplars import exemplars as exemplars
from autoprune.allocation.exemplars import factors as factors
from autoprune.allocation.global_ranking import global_ranking as global_ranking
from autoprune.allocation.iterative import iterative_scores as iterative_scores
from autoprune.allocation.knapsack import knapsack as knapsack
from autoprune.allocation.loads import loads as loads
from autoprune.allocation.multiple_choice import multiple_choice as multiple_choice
from autoprune.allocation.peers import peer_rules as peer_rules
from autoprune.allocation.sensitivity import Drops as Drops
from autoprune.allocation.sensitivity import equal_loss as equal_loss
from autoprune.allocation.sensitivity import loss_rises as loss_rises
from autoprune.allocation.sensitivity import scan_widths as scan_widths
from autoprune.allocation.sensitivity import summed_scores as summed_scores
from autoprune.allocation.sensitivity import threshold as threshold
from autoprune.allocation.streams import between as between
from autoprune.allocation.streams import holding as holding
from autoprune.allocation.streams import inner as inner
from autoprune.allocation.streams import streams as streams
from autoprune.allocation.streams import streams_kept as streams_kept
from autoprune.allocation.uniform import uniform as uniform
