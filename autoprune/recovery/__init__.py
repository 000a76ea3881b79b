"""Getting the accuracy back: batch-norm re-estimation, fine-tuning, distillation."""

from autoprune.recovery.batchnorm import reestimate as reestimate
from autoprune.recovery.batchnorm import reestimate_evenly as reestimate_evenly
from autoprune.recovery.distillation import distillation_loss as distillation_loss
from autoprune.recovery.finetune import Diverged as Diverged
from autoprune.recovery.finetune import TrainingLog as TrainingLog
from autoprune.recovery.finetune import finetune as finetune
from autoprune.recovery.schedules import SCHEDULES as SCHEDULES
