"""Training: one loop for every fine-tune, and methods that prune while a network trains."""

from autoprune.settings import TrainingSettings as TrainingSettings
from autoprune.training.loop import Checkpoints as Checkpoints
from autoprune.training.loop import StepListener as StepListener
from autoprune.training.loop import TrainingLog as TrainingLog
from autoprune.training.loop import batches_of as batches_of
from autoprune.training.loop import check as check
from autoprune.training.loop import finetune as finetune
from autoprune.training.loop import plan_of as plan_of
from autoprune.training.loop import steps_of as steps_of
from autoprune.training.methods import METHODS as METHODS
from autoprune.training.methods import Cut as Cut
from autoprune.training.methods import Method as Method
from autoprune.training.methods import Plan as Plan
from autoprune.training.methods import Pruning as Pruning
from autoprune.training.methods import Sandwich as Sandwich
from autoprune.training.methods import Step as Step
from autoprune.training.optimisers import OPTIMIZERS as OPTIMIZERS
from autoprune.training.schedules import SCHEDULES as SCHEDULES
from autoprune.training.stability import check_strength as check_strength
