"""Evidence traces and the report: escaping, standing alone, geometry, what is shown."""

import base64
import html.parser
import json
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.report import Trace, TurnView, render_report, render_trace, trace_json
from medscope_jax.report.curves import learning_curves, series, smooth
from medscope_jax.report.timeline import LEFT, RIGHT, WIDTH, clock, tick_times, timeline
from medscope_jax.report.trace import trace_view
from medscope_jax.report.trace_page import data_uri, elements
from medscope_jax.visible import visible

VOID = {"meta", "img", "source"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "footer", "nav", "section", "div"),
    *("p", "span", "h1", "h2", "h3", "a", "ol", "ul", "li", "strong", "code", "small", "details"),
    *("summary", "figure", "figcaption", "svg", "text", "line", "rect", "path", "g", "picture"),
    *("source", "img", "table", "thead", "tbody", "tr", "th", "td"),
}
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</title></style><svg onload=alert(1)>",
    "\"' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% include 'x' %}",
    "<think>a</think><answer></div></main><h1>b</h1></answer>",
    "javascript:alert(1)",
    "\ud800 \x00 \x1b[31m \u202egnp",
    "&lt;b&gt; &amp;",
    "left\u200b\u202e thgir \U000e0041\u3164\u2800\xad",
]


class Page(html.parser.HTMLParser):
    """Collects a page's elements, checks that they nest, and keeps its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check_page(text):
    """Parses a page; it must hold known elements only and load nothing from outside."""
    text.encode("utf-8")
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag in ALLOWED, tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "srcset"):
                assert re.match(r"data:image/(jpeg|svg\+xml);base64,[\w+/=]+$", value)
            if name == "href":
                assert value.startswith("#")
            assert name != "xlink:href"
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    assert "Research software, not a medical device." in page.text
    policy = [a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a]
    assert len(policy) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in policy[0].split(";"))
    nothing = ("default-src", "base-uri", "form-action")
    assert rules == dict.fromkeys(nothing, "'none'") | {
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
    }
    # The policy governs what comes after it: only the declaration of UTF-8 stands before.
    heads = [list(attributes) for tag, attributes in page.elements if tag == "meta"]
    assert heads[0] == ["charset"] and "http-equiv" in heads[2]
    return page


def frames(count, height=28, width=56):
    random = np.random.default_rng(0)
    return list(random.integers(0, 256, (count, height, width, 3), np.uint8))


def crop_turn(start=78.0, end=96.0, count=4, **changes):
    text = '<think>closer</think><tool_call>{"name": "crop_video"}</tool_call>'
    times = np.linspace(start, end, count)
    fields = {"text": text, "tool": "crop_video", "start": start, "end": end, "status": "OK"}
    fields |= {"frame_times": times, "frame_images": frames(count)}
    return TurnView(**(fields | changes))


def sample(**changes):
    fields = {
        "question": "How many haptics?",
        "answer": "two",
        "reference": "two haptics",
        "duration": 184.0,
        "evidence": [(85.0, 91.5)],
        "turns": [
            TurnView(
                "<think>hm</think><tool_call>[]</tool_call>",
                status="NOT_JSON",
                observation="Tool execution failed: no call.",
            ),
            crop_turn(),
            TurnView("<think>seen</think><answer>two</answer>"),
        ],
        "preview_times": [0.0, 60.0, 120.0],
        "preview_images": frames(3),
        "reward": {"accuracy": 0.5, "total": 2.5},
        "model": "rl",
        "split": "ophthalmic",
        "task": "vqa",
    }
    return Trace(**(fields | changes))


# ---- the page


def test_what_is_unseen_is_seen_on_the_page_and_kept_in_json():
    words = "no\u202e polyp\u3164 \U000e0068 مي\u200cخ"
    trace = sample(question=words, answer=words, notes=[words], video=words)
    page = check_page(render_trace(trace)).text
    assert page.count("no<U+202E> polyp<U+3164> <U+E0068> مي\u200cخ") == 5  # and the title
    assert trace_json(trace)["answer"] == words


def test_a_trace_shows_everything():
    page = check_page(render_trace(sample()))
    for words in (
        *("How many haptics?", "two haptics", "closer", "seen", "Tool execution failed: no call."),
        *("not json", "1:18 to 1:36", "IoU with the true evidence 0.36", "2.50", "ophthalmic"),
    ):
        assert words in page.text, words
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert [image["alt"] for image in images] == [
        f"Video frame at {time}"
        for time in ("0:00", "1:00", "2:00", "1:18", "1:24", "1:30", "1:36")
    ]
    (drawing,) = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert drawing["aria-label"] == (
        "Timeline of a video of 3:04. True evidence 1:25 to 1:31.5. Preview: 3 frames. "
        "Look 1: window 1:18 to 1:36."
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(text):
    turns = [
        TurnView(
            f"<think>{text}</think><tool_call>{text}</tool_call>", text, None, None, text, text
        ),
        TurnView(text),
        crop_turn(tool=text, observation=text),
    ]
    trace = sample(
        question=text,
        answer=text,
        reference=text,
        turns=turns,
        model=text,
        split=text,
        task=text,
        video=text,
        reward={text: 1.0},
    )
    page = check_page(render_trace(trace))
    words = visible(text, keep="\n\t")
    assert page.text.count(words) >= 8
    row = {"model": text, "split": text, "task": text, "accuracy": 0.5}
    metrics = [{"stage": text, "step": step, text: 1.0} for step in range(3)]
    page = check_page(render_report(metrics, [row], [trace], text, [text]))
    assert words in page.text


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_makes_a_page(first, second):
    trace = sample(
        question=first, answer=second, turns=[TurnView(first + second), TurnView(second)]
    )
    check_page(render_trace(trace))
    json.dumps(trace_json(trace))


@pytest.mark.parametrize(
    "changes",
    [
        {"evidence": (), "reference": "", "reward": {}},
        {"evidence": (), "evidence_time": 31.0},
        {"turns": (), "preview_times": (), "preview_images": (), "answer": ""},
        {"preview_images": (), "turns": [crop_turn(frame_images=())]},
        {"evidence": [(1, 2), (5, 9)], "predicted": [(3, 4), (6, 7)]},
        {"duration": 0.0},
        {"duration": 7200.0},
        {"turns": [crop_turn(tool="get_frame", start=88.0, end=88.0)]},
    ],
)
def test_traces_with_parts_missing(changes):
    check_page(render_trace(sample(**changes)))


def test_frame_time_evidence_is_hit_or_missed():
    hit = sample(evidence=(), evidence_time=80.0)
    assert "holds the true frame" in check_page(render_trace(hit)).text
    missed = sample(evidence=(), evidence_time=8.0)
    assert "misses the true frame" in check_page(render_trace(missed)).text


def test_frames_are_what_the_model_saw():
    image = np.full((28, 56, 3), (200, 40, 10), np.uint8)
    encoded = base64.b64decode(data_uri(image).partition(",")[2])
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - image).max() < 6  # red stays red


def test_wrong_frames_are_refused():
    with pytest.raises(ValueError, match="4 frame times but 3 images"):
        render_trace(sample(turns=[crop_turn(frame_images=frames(3))]))
    with pytest.raises(ValueError, match="must be uint8"):
        data_uri(np.zeros((4, 4, 3)))


def test_json_holds_everything_but_pixels():
    plain = json.loads(json.dumps(trace_json(sample())))
    assert plain["turns"][1]["frame_times"] == [78.0, 84.0, 90.0, 96.0]
    assert plain["evidence"] == [[85.0, 91.5]]
    assert plain["notice"] == "Research software, not a medical device."
    assert "images" not in json.dumps(plain)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>b</answer>", [("think", "a"), ("answer", "b")]),
        ("<think>a</think>b<answer>c", [("think", "a"), ("other", "b"), ("answer", "c")]),
        ("no tags", [("other", "no tags")]),
        ("<think> </think>", []),
        ("", []),
    ],
)
def test_elements_of_a_turn(text, expected):
    assert elements(text) == expected


# ---- the timeline


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0:00"), (87.5, "1:27.5"), (59.96, "1:00"), (3600, "1:00:00"), (3661.2, "1:01:01.2")],
)
def test_clock(seconds, expected):
    assert clock(seconds) == expected


@given(st.floats(0.1, 1e6))
def test_ticks_are_few_and_inside(duration):
    ticks = tick_times(duration)
    assert 1 <= len(ticks) <= 10 and ticks[0] == 0 and ticks[-1] <= duration


times = st.floats(0, 400)


@settings(deadline=None)
@given(st.floats(1, 300), st.lists(st.tuples(times, times).map(sorted), max_size=4), times)
def test_marks_stay_on_the_drawing(duration, windows, instant):
    turns = [crop_turn(*window, frame_images=()) for window in windows]
    drawing = trace_view(sample(duration=duration, turns=turns, evidence_time=instant))["timeline"]
    for lane in drawing["lanes"]:
        for mark in lane["marks"]:
            assert LEFT - 0.01 <= mark["x"] <= WIDTH - RIGHT + 0.01
            assert mark["x"] + mark.get("width", 0) <= WIDTH - RIGHT + 0.01


def test_places_are_proportional():
    lanes = timeline(100.0, evidence=[(25, 50)])["lanes"]
    (mark,) = lanes[0]["marks"]
    inner = WIDTH - LEFT - RIGHT
    assert mark["x"] == pytest.approx(LEFT + inner / 4, abs=0.01)
    assert mark["width"] == pytest.approx(inner / 4, abs=0.02)


# ---- the report


def metric_rows():
    rows = [
        {"stage": "warmup", "step": i, "time": 1e9 + i, "loss": 3 - i / 10, "seconds_step": 0.1}
        for i in range(20)
    ]
    rows += [{"stage": "rl", "step": i, "reward": float(i), "kl": "nan"} for i in range(3)]
    return [*rows, {"stage": "rl", "step": 3, "reward": float("nan"), "note": "odd"}]


def test_series_and_smoothing():
    found = series(metric_rows())
    assert {stage: list(names) for stage, names in found.items()} == {
        "warmup": ["loss"],
        "rl": ["reward"],
    }
    assert found["rl"]["reward"] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert smooth([0, 3, 0], 0) == [0, 3, 0]
    assert smooth([0, 3, 0], 1) == [1.5, 1.0, 1.5]


def test_curves_are_reproducible_and_capped():
    many = [{"stage": "s", "step": i} | {f"m{k}": 0.1 * i for k in range(12)} for i in range(3)]
    (first,), (second,) = learning_curves(many), learning_curves(many)
    assert first == second and first["light"] != first["dark"]
    assert first["text"].count(" to ") == 9
    assert learning_curves([]) == []


def test_curves_of_numbers_that_no_step_can_give():
    """As a damaged byte of metrics.jsonl may make them."""
    for value in (1e308, -1e308, 10**300):
        rows = [{"stage": "s", "step": i, "loss": 3e38 if i % 9 else value} for i in range(50)]
        (figure,) = learning_curves(rows)
        assert figure["flat"] == "loss 3e+38"


def test_curves_show_what_a_practitioner_looks_at():
    """Of stage 3's many figures the telling ones, in order; what never changes has no panel."""
    names = (
        *("reward", "reward_crop", "reward_accuracy", "iou", "tool_rate", "calls", "tokens"),
        *("tokens_max", "entropy", "clip_fraction", "logprob_gap_mean", "groups_without_signal"),
        *("gradient_norm", "calls_not_json", "decoded", "seconds_update"),
    )
    rows = [
        {"stage": "rl", "step": i, "skipped": 0, "kl": 0.5} | dict.fromkeys(names, i / 2)
        for i in range(3)
    ]
    (figure,) = learning_curves(rows)
    assert [part.rsplit(" ", 3)[0] for part in figure["text"].split(", by")[0].split("; ")] == [
        *("reward", "reward accuracy", "iou", "tool rate", "entropy", "groups without signal"),
        *("tokens", "clip fraction", "logprob gap mean"),
    ]
    assert figure["flat"] == "kl 0.5, skipped 0"
    assert "Unchanged throughout: kl 0.5, skipped 0." in render_report(rows, [], [])


def test_a_report_shows_everything():
    rows = [
        {"model": "sft", "split": "ophthalmic", "task": "grounding", "miou": 0.4, "count": 10},
        {"model": "rl", "split": "ophthalmic", "task": "grounding", "miou": 0.5, "count": 10},
        {"model": "rl", "split": "ophthalmic", "task": "order", "accuracy": 0.25, "count": 10},
    ]
    rows[1] |= {"miou_range": [0.45, 0.55], "unparsed": 3}
    text = render_report(metric_rows(), rows, [sample(), sample()], "A run", ["Seed 0."])
    page = check_page(text)
    for words in ("A run", "Seed 0.", "50.0", "45.0\u201355.0", "25.0", "R@.3", "3 of 30"):
        assert words in page.text, words
    assert [a["class"] for t, a in page.elements if t == "td" and "best" in a.get("class", "")]
    assert sum(tag == "details" for tag, _ in page.elements) == 2
    alts = [a["alt"] for t, a in page.elements if t == "img" and "Learning" in a["alt"]]
    assert alts[0] == "Learning curves of warmup: loss 3 to 1.1, by step 19"
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_an_empty_report_is_a_page():
    check_page(render_report([], [], []))
