"""The Python calls: a run, a training, stored results as data frames, tables.

Nothing here prints or exits: that is cli/.
"""
