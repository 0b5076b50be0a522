"""MedScope for JAX: a medical video model that looks before it answers.

Research software, not a medical device.
"""

__version__ = "0.1.0"
