"""Frames of the phantom suite's recordings; see phantom_frames.py."""
