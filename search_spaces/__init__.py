"""What may be pruned in a network, and how to build what is left."""

from search_spaces.branches.holding import verified as verified
from search_spaces.contents import copy_of as copy_of
from search_spaces.contents import tensors_in as tensors_in
from search_spaces.groups import ChannelGroup as ChannelGroup
from search_spaces.groups import Member as Member
from search_spaces.inputs import kept_inputs as kept_inputs
from search_spaces.inputs import select_inputs as select_inputs
from search_spaces.masking import mask as mask
from search_spaces.nesting import NestedNetwork as NestedNetwork
from search_spaces.nesting import Sliced as Sliced
from search_spaces.shrinkable import PaddedShortcut as PaddedShortcut
from search_spaces.shrinkable import Shrinkable as Shrinkable
from search_spaces.space import Axis as Axis
from search_spaces.space import Kept as Kept
from search_spaces.space import Layer as Layer
from search_spaces.space import SearchSpace as SearchSpace
from search_spaces.space import TensorShape as TensorShape
from search_spaces.space import Widths as Widths
from search_spaces.surgery import Dresser as Dresser
from search_spaces.surgery import prune as prune
from search_spaces.tracing import trace as trace
from search_spaces.verify import VerificationError as VerificationError
from search_spaces.verify import verify as verify
