"""Collects the target's trajectories, stores and sifts them."""
