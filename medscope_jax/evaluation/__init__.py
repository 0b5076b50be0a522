"""Evaluations that lose nothing: predictions on the disk as they are made, scored again offline."""
