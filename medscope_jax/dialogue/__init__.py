"""Tokenizers, the chat protocol, and conversations as integers."""

from pathlib import Path

from medscope_jax.dialogue.episode import (
    CallRecord,
    CompactRow,
    Episode,
    Layout,
    Role,
    Row,
    build_episode,
    build_prompt,
    frame_text_ids,
    generated_text,
    pad_row,
    stamp_ids,
    turn_texts,
)
from medscope_jax.dialogue.options import question_text
from medscope_jax.dialogue.qwen_tokenizer import load_qwen_tokenizer
from medscope_jax.dialogue.tokenizer import (
    Tokenizer,
    encode_parts,
    load_tokenizer,
    pad_vocabulary,
    save_tokenizer,
    train_tokenizer,
)

# Conversations as text, with tools and frames, as transformers' apply_chat_template reads it.
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")

__all__ = [
    "CHAT_TEMPLATE",
    "CallRecord",
    "CompactRow",
    "Episode",
    "Layout",
    "Role",
    "Row",
    "Tokenizer",
    "build_episode",
    "build_prompt",
    "encode_parts",
    "frame_text_ids",
    "generated_text",
    "load_qwen_tokenizer",
    "load_tokenizer",
    "pad_vocabulary",
    "pad_row",
    "question_text",
    "save_tokenizer",
    "stamp_ids",
    "train_tokenizer",
    "turn_texts",
]
