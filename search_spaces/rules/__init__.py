"""How layers and operations move channel ids.

A rule is a function; two tables say which rule answers for what: `FUNCTIONS` for calls of the torch API (layers, and
operations whose *arguments* matter: a size written in the code), `OPERATORS` for the ATen operators everything else
decomposes into. What is in neither table is unknown: all that enters it is frozen.
"""
