"""What others would answer: the rules of published tools, so that a search knows their networks from the start."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from autoprune.allocation.global_ranking import ROUNDS, global_ranking
from autoprune.allocation.sensitivity import equal_loss
from autoprune.allocation.streams import streams_kept
from autoprune.allocation.uniform import uniform
from autoprune.problem import Problem
from search_spaces import Widths


@lru_cache(maxsize=2)  # asked for by the warm starts and by whoever chooses finalists
def peer_rules(problem: Problem) -> tuple[Widths, ...]:
    """The widths of other tools' default rules, distinct, in the order of what they reached on ResNet-56 at 15 %.

    - ModelOpt FastNAS's threshold, over the run's scores instead of a scan (`allocation.equal_loss`), with the streams
      kept and over the whole space; a scan, which takes a tenth as long as the search, comes hardly nearer to what
      FastNAS answers (results/benchmarks/quality.md);
    - Torch-Pruning's global pruning: squared norms, divided by the mean of those that are left, in ten rounds
      (`allocation.global_ranking`), with the streams kept, as its tracing often demands, and over the whole space;
    - one share everywhere but in the streams.
    """
    kept = streams_kept(problem)
    spaces = [p for p in (kept, problem) if p is not None]
    even = [equal_loss(p) for p in spaces]
    ranked = [global_ranking(replace(p, scores=p.norms or p.scores), rounds=ROUNDS) for p in spaces]
    return tuple(dict.fromkeys((even[0], ranked[0], *even[1:], *([uniform(kept)] if kept else []), *ranked[1:])))
