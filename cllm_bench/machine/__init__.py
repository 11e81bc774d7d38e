"""The computer that a run stands on: versions, cores, bandwidth, what disturbs it.

Nothing here loads a model.
"""
