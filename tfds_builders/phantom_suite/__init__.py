"""Records of the phantom suite: questions, captions, trajectories; see phantom_suite.py."""
