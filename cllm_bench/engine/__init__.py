"""Weights and forward passes: families, checkpoints, sessions, caches, kernels.

Nothing here knows a task, a method or a result.
"""
