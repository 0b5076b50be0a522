"""What a request holds, and what counts as said in its reply."""

import dataclasses
import json

import pytest

from tests.tfds_builders.synthesis.request_cases import request
from tfds_builders.synthesis.items import Clip
from tfds_builders.synthesis.settings import SynthesisConfig
from tfds_builders.synthesis.stages import caption
from tfds_builders.synthesis.wire import request_body

CONFIG = SynthesisConfig()


def test_the_temperature_can_be_left_out(footage):
    config = dataclasses.replace(CONFIG, own_temperature=True)
    for draw in (0, 1):
        body = request_body(dataclasses.replace(request(), draw=draw), "m", config)
        assert "temperature" not in json.loads(body)
        assert "temperature" in json.loads(request_body(request(), "m", CONFIG))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ('<think>{"caption": "no"}</think>{"caption": "yes"}', ["yes"]),
        ('{"caption": "no"}</think>\nHere:\n```json\n{"caption": "yes"}\n```', ["yes"]),
        ('<think>{"caption": "no"}', []),
    ],
)
def test_what_is_thought_is_not_said(serve, session, footage, reply, said):
    server = serve(lambda body: reply)

    async def work(ask):
        return await caption([Clip(footage, 0.0, 9.0)], ask, CONFIG)

    assert [clip.caption for clip in session(server, work).kept] == said


def test_refusals_are_answers(serve, session, footage):
    body = {"choices": [{"message": {"content": None, "refusal": "I will not."}}]}
    server = serve(lambda body: "I'm sorry, but I can't help.", faults=[(200, json.dumps(body))])

    async def work(ask):
        clips = [Clip(footage, 0.0, 9.0), Clip(footage, 10.0, 19.0)]
        return await caption(clips, ask, CONFIG)

    outcome = session(server, work, workers=1)
    assert [drop.reason for drop in outcome.drops] == ["refused", "refused"]
    assert len(server.keys) == 2  # asked once each: it would refuse again


def test_a_reply_that_cannot_be_read_is_drawn_again(serve, session, footage):
    """Independently: another seed and a temperature."""
    good = json.dumps({"caption": "A polyp."})
    server = serve(lambda body: good if body["seed"] else "A polyp, says I.")

    async def work(ask):
        return await caption([Clip(footage, 0.0, 9.0)], ask, CONFIG)

    outcome = session(server, work)
    assert [clip.caption for clip in outcome.kept] == ["A polyp."]
    first, second = map(json.loads, server.bodies)
    assert first["temperature"] == 0 and second["temperature"] == CONFIG.temperature
    assert first["messages"] == second["messages"]


def test_frames_go_as_jpeg_after_their_times(serve, session, footage):
    server = serve(lambda body: json.dumps({"caption": "A polyp."}))

    async def work(ask):
        return await caption([Clip(footage, 8.0, 10.0)], ask, CONFIG)

    session(server, work)
    parts = json.loads(server.bodies[0])["messages"][1]["content"][1:-1]
    images = ("anBlZyA4", "anBlZyA5", "anBlZyAxMA==")  # "jpeg 8", "jpeg 9", "jpeg 10"
    expected = []
    for time_s, image in zip((8, 9, 10), images, strict=True):
        url = f"data:image/jpeg;base64,{image}"
        expected.append({"type": "text", "text": f"<{time_s}.0s>"})
        expected.append({"type": "image_url", "image_url": {"url": url}})
    assert parts == expected
