"""Images for a search: split once by a seed; in memory as bytes, or read whenever they are wanted."""

from autoprune.data.augmentation import augment as augment
from autoprune.data.image_stream import ImageStream as ImageStream
from autoprune.data.images import CLASSIFICATION as CLASSIFICATION
from autoprune.data.images import ImageData as ImageData
from autoprune.data.images import Split as Split
from autoprune.data.items import Damaged as Damaged
from autoprune.data.items import Items as Items
from autoprune.data.items import Selection as Selection
from autoprune.data.items import Streaming as Streaming
from autoprune.data.load import load as load
from autoprune.data.load import load_or_stream as load_or_stream
from autoprune.data.normalisation import describe as describe
from autoprune.data.normalisation import input_of as input_of
from autoprune.data.normalisation import normalised as normalised
from autoprune.data.normalisation import output_of as output_of
