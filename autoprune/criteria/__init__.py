"""Which channels matter: each criterion gives every unit of a group a score, higher = keep.

The import lines are the registry; `score_all` is the one verb.
"""

from autoprune.criteria.apoz import Apoz as Apoz
from autoprune.criteria.bn_scale import BatchNormScale as BatchNormScale
from autoprune.criteria.branches import branch_losses as branch_losses
from autoprune.criteria.branches import with_branch_losses as with_branch_losses
from autoprune.criteria.criterion import CRITERIA as CRITERIA
from autoprune.criteria.criterion import Criterion as Criterion
from autoprune.criteria.exemplar import Exemplar as Exemplar
from autoprune.criteria.geometric_median import GeometricMedian as GeometricMedian
from autoprune.criteria.group_fisher import GroupFisher as GroupFisher
from autoprune.criteria.hrank import HRank as HRank
from autoprune.criteria.l1 import L1Norm as L1Norm
from autoprune.criteria.l2 import L2Norm as L2Norm
from autoprune.criteria.lamp import Lamp as Lamp
from autoprune.criteria.leverage import Leverage as Leverage
from autoprune.criteria.magnitude import Magnitude as Magnitude
from autoprune.criteria.mean_activation import MeanActivation as MeanActivation
from autoprune.criteria.nisp import Nisp as Nisp
from autoprune.criteria.obd import OptimalBrainDamage as OptimalBrainDamage
from autoprune.criteria.orthoreg import OrthoReg as OrthoReg
from autoprune.criteria.random import Random as Random
from autoprune.criteria.scoring import distances as distances
from autoprune.criteria.scoring import score_all as score_all
from autoprune.criteria.scoring import score_many as score_many
from autoprune.criteria.taylor import Taylor as Taylor
from autoprune.criteria.tensors import GroupTensors as GroupTensors
from autoprune.criteria.thinet import ThiNet as ThiNet
