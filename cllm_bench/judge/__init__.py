"""Grading of replies by another model: protocol, endpoints, local checkpoints, the grading loop.

Stored judgements belong in results/, the scores computed from them in report/.
"""
