"""Images for a search: loaded once as bytes, split once by a seed, normalised and augmented on the device."""

from autoprune.data.augmentation import augment as augment
from autoprune.data.images import CLASSIFICATION as CLASSIFICATION
from autoprune.data.images import ImageData as ImageData
from autoprune.data.images import Split as Split
from autoprune.data.load import load as load
from autoprune.data.normalisation import describe as describe
from autoprune.data.normalisation import input_of as input_of
from autoprune.data.normalisation import normalised as normalised
from autoprune.data.normalisation import output_of as output_of
