"""Products of states and weights on a CPU: their kernels, and which is the fastest where.

Not here: what a layer computes with them (`engine/fused_layers.py`), and engines of a GPU.
"""
