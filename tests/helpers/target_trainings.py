"""Trainings of a target from scratch, seconds long."""

from families import cli

SHAPE = "init=scratch,hidden=16,layers=1,heads=2,feed_forward=24,vocabulary=400,learning_rate=0.01"
TINY = f"target:{SHAPE},tokens=512"
TASK = "spider:train_questions=400"


def train(monkeypatch, recipe, output, *more):
    arguments = ["train", recipe, "--task", TASK, "--output", output, "--threads", 1, *more]
    return cli(monkeypatch, *arguments, "--device", "cpu")
