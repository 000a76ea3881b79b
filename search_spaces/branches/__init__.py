"""Branches of a network that may vanish: found in the graph of the trace, and what then stands in their place."""
