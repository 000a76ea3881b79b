"""`trace`: a network is run once with channel ids riding along, and out comes the search space."""

from search_spaces.tracing.passes import as_call as as_call
from search_spaces.tracing.passes import slow_path as slow_path
from search_spaces.tracing.tracer import check_model as check_model
from search_spaces.tracing.tracer import trace as trace
