"""What one Python call does: a run, stored results as data frames, tables.

Nothing here prints or exits: that is cli/.
"""
