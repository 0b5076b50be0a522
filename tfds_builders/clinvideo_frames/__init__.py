"""Frames of real recordings, stored once per video."""
