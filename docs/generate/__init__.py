"""Pages of the reference, each made from the one place in the code where its facts stand."""
