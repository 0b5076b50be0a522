"""Our chat template: what the protocol writes, and the published templates' very characters."""

import json
import random

import pytest

from medscope_jax.dialogue import protocol
from tests.dialogue import qwen_cases
from tests.dialogue.chat_cases import compile_template, render_chat

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
CALL = {"name": "get_frame", "arguments": {"video_path": "video.mp4", "timestamp": 3.0}}


def test_a_conversation_with_all_there_is():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]},
        {"role": "assistant", "content": "<think>a</think>", "tool_calls": [CALL]},
        {"role": "tool", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "tool", "content": "Tool execution failed."},
        {"role": "assistant", "content": None, "tool_calls": [{"function": CALL}, CALL]},
        {"role": "tool", "content": [{"type": "video_url"}]},
    ]
    call = (
        '\n<tool_call>\n{"name": "get_frame", "arguments": {"video_path": "video.mp4", '
        '"timestamp": 3.0}}\n</tool_call>'
    )
    assert render_chat(messages, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n{IMAGE}Where?<|im_end|>\n"
        f"<|im_start|>assistant\n<think>a</think>{call}<|im_end|>\n"
        f"<|im_start|>user\n<tool_response>\n{IMAGE}\n</tool_response>"
        "\n<tool_response>\nTool execution failed.\n</tool_response><|im_end|>\n"
        f"<|im_start|>assistant{call}{call}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n<|vision_start|><|video_pad|><|vision_end|>\n"
        "</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("tools", [True, False])
def test_the_protocols_prompt_is_the_templates(tools):
    """What the phantom suite trains on opens as Qwen's template does."""
    user = f"{IMAGE}\nWhere?\n" + (
        protocol.INSTRUCTION_WITH_TOOLS if tools else protocol.INSTRUCTION
    )
    rendered = render_chat(
        [{"role": "user", "content": user}],
        tools=protocol.FUNCTIONS if tools else None,
        add_generation_prompt=True,
    )
    closing = "".join(text for text, _ in protocol.prompt_closing_parts("Where?", tools))
    prompt = protocol.prompt_opening(tools) + IMAGE + closing
    assert rendered == prompt


def test_observations_are_framed_as_the_template_frames_them():
    messages = [
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "I look."},
        {"role": "tool", "content": "frames"},
    ]
    opening, closing = protocol.observation_frame(protocol.QWEN_RESPONSE)
    text = render_chat(messages, add_generation_prompt=True)
    assert text.endswith(f"I look.{opening}frames{closing}")


@pytest.fixture(scope="session")
def vision(request):
    return compile_template(qwen_cases.vision_template(request.config.cache))


@pytest.fixture(scope="session")
def tooled(request):
    """Qwen2.5's template with tools; Qwen2.5-VL's differs in the default system prompt only."""
    folder = qwen_cases.published(request.config.cache)
    text = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    assert text.count("You are Qwen, created by Alibaba Cloud. ") == 2
    return compile_template(text.replace("You are Qwen, created by Alibaba Cloud. ", ""))


def conversation(draw, visual, tools):
    """A random conversation: messages of any role in any order, contents as texts or lists."""
    words = ["a", "Where?", "\n", " ", "<think>", "<|im_end|>", "\u4e2d", "\U0001f600", '"', "\\"]

    def text():
        return "".join(draw.choices(words, k=draw.randint(0, 6)))

    def item():
        return draw.choice(
            [
                {"type": "text", "text": text()},
                {"type": "image"},
                {"type": "image", "image": "a.png", "text": "no"},
                {"image_url": "b.png"},
                {"type": "video", "video": "c.mp4"},
                {"type": "text", "text": text()},
            ]
        )

    def content():
        return [item() for _ in range(draw.randint(0, 4))] if draw.random() < visual else text()

    def arguments():
        values = [draw.random(), text(), None, True, [1, {"b": text()}], 10**20]
        return {text(): value for value in draw.sample(values, draw.randint(0, 4))}

    messages = []
    for _ in range(draw.randint(1, 7)):
        role = draw.choice(["system", "user", "assistant", *(["assistant", "tool"] * tools)])
        message = {"role": role, "content": content()}
        if role == "assistant" and tools and draw.random() < 0.7:
            calls = [{"name": text(), "arguments": arguments()} for _ in range(draw.randint(0, 3))]
            calls = [draw.choice([c, {"type": "function", "function": c}]) for c in calls]
            message["tool_calls"] = calls
            if calls and draw.random() < 0.3:
                message["content"] = draw.choice([None, "", []])
        messages.append(message)
    return messages


FUNCTIONS = [*protocol.FUNCTIONS, {"type": "function", "function": {"name": "\u4e2d <b> & 'c'"}}]


@pytest.mark.reference
def test_as_the_processors_template(vision):
    """Images, videos and their numbers, without tools."""
    draw, marks = random.Random(0), 0
    for _ in range(500):
        messages = conversation(draw, visual=0.7, tools=0)
        options = {n: draw.random() < 0.5 for n in ("add_generation_prompt", "add_vision_id")}
        rendered = render_chat(messages, **options)
        assert rendered == vision.render(messages=messages, **options)
        marks += rendered.count("Video 2: ")
    assert marks > 20


@pytest.mark.reference
def test_as_the_tokenizers_template(tooled):
    """Tools, tool calls and tool responses, without images."""
    draw, calls = random.Random(1), 0
    for _ in range(500):
        messages = conversation(draw, visual=0, tools=1)
        tools = draw.choice([None, [], FUNCTIONS, FUNCTIONS[:1]])
        prompt = draw.random() < 0.5
        rendered = render_chat(messages, tools, add_generation_prompt=prompt)
        assert rendered == tooled.render(
            messages=messages, tools=tools, add_generation_prompt=prompt
        )
        calls += rendered.count("</tool_call>")
    assert calls > 500


@pytest.mark.reference
def test_as_both_templates(vision, tooled):
    """Contents as the processor renders them, then put where the tokenizer's template wants text.

    The processor's template, asked to render the contents alone as messages of one role, counts
    images and videos over the whole conversation, as render_chat does.
    """
    draw = random.Random(2)
    for _ in range(500):
        messages = conversation(draw, visual=0.7, tools=1)
        number = draw.random() < 0.5
        opening, closing = "<|im_start|>system\n\x00", "\x00<|im_end|>\n"
        marked = [
            {"role": "system", "content": [{"text": "\x00"}, *as_list(m), {"text": "\x00"}]}
            for m in messages
        ]
        rendered = vision.render(messages=marked, add_vision_id=number)
        contents = rendered.removeprefix(opening).removesuffix(closing).split(closing + opening)
        flat = [{**m, "content": c} for m, c in zip(messages, contents, strict=True)]
        ours = render_chat(messages, FUNCTIONS, add_vision_id=number)
        assert ours == tooled.render(messages=flat, tools=FUNCTIONS)


def as_list(message):
    content = message["content"] or ""
    return [{"text": content}] if isinstance(content, str) else content
