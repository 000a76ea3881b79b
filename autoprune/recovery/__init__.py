"""Getting the accuracy back: batch-norm re-estimation, reconstruction, adaptation, fine-tuning, distillation."""

from autoprune.recovery.adaptation import adapt as adapt
from autoprune.recovery.adaptation import images_seen as images_seen
from autoprune.recovery.batchnorm import reestimate as reestimate
from autoprune.recovery.batchnorm import reestimate_evenly as reestimate_evenly
from autoprune.recovery.finetune import TrainingLog as TrainingLog
from autoprune.recovery.finetune import finetune as finetune
from autoprune.recovery.reconstruction import Reconstruction as Reconstruction
from autoprune.recovery.schedules import SCHEDULES as SCHEDULES
