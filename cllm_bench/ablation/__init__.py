"""Trains variants of a recipe and measures all of them in one run.

What a variant is, the runner and the report; what the command line takes is in cli/.
"""
