"""Points <-> widths, so that any optimiser over floats can search any space.

An encoding says what the coordinates mean; whoever optimises over them need not know.

Letters: `G` groups, `C` units of a group, `B` candidates in a batch, `D` coordinates.
"""

from search_spaces.encodings.compensation import Affine as Affine
from search_spaces.encodings.compensation import LayerCompensation as LayerCompensation
from search_spaces.encodings.compensation import Shift as Shift
from search_spaces.encodings.depth import ZERO as ZERO
from search_spaces.encodings.depth import Depth as Depth
from search_spaces.encodings.encoding import Encoding as Encoding
from search_spaces.encodings.encoding import Fits as Fits
from search_spaces.encodings.encoding import Floats as Floats
from search_spaces.encodings.preferences import Preferences as Preferences
from search_spaces.encodings.ranking import NORMALISERS as NORMALISERS
from search_spaces.encodings.ranking import Ranking as Ranking
from search_spaces.encodings.ranking import divisor_of as divisor_of
from search_spaces.encodings.ranking import normalised as normalised
from search_spaces.encodings.ratios import Ratios as Ratios
from search_spaces.encodings.ratios import mutate as mutate
