"""The questions that are built in: generated, never taken from the data set."""
