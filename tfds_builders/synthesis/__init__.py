"""Records written by a model: from raw recordings to captions, questions and trajectories.

    segment -> caption -> merge into events -> questions -> filters -> teacher trajectories

Every stage is a function of (items, ask, config), with `ask` an async function from a Request to
a Reply: a model behind an endpoint (client.py), or a phantom procedure's script (phantom.py). It
gives what it keeps and, with the reasons, what it drops. How to run it: see __main__.py.
"""
