"""Stages of a recipe, each run once, and the optimiser's loop.

No loss and no recipe: those are in methods/.
"""
