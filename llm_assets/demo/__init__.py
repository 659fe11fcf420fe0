"""The demo of this repository: a small model, a source table with rows, and the run that answers them."""
