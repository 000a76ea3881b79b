"""What gives accuracy back without training: batch-norm re-estimation, reconstruction by least squares."""

from autoprune.recovery.batchnorm import reestimate as reestimate
from autoprune.recovery.batchnorm import reestimate_evenly as reestimate_evenly
from autoprune.recovery.reconstruction import Reconstruction as Reconstruction
