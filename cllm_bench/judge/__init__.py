"""Another model grades replies: protocol, endpoints, local weights, grading.

Stored verdicts are in results/, the scores that they give in report/.
"""
