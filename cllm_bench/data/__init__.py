"""Where questions come from: sources, JSON-lines files, overlap of two sets.

A data set's own format belongs to its task.
"""
