"""Requests to ask a model."""

from tfds_builders.synthesis.items import Request


def request(number=0):
    """A request like no other."""
    return Request("blind", {"question": f"What is item {number}.0 of x?", "duration": 60.0})
