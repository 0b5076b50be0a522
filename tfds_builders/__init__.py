"""TFDS builders of ClinVideoSuite (no TensorFlow needed), and its phantom stand-in."""
