"""What a suite is made of: its splits and its parts, and which part has which splits."""

SPLITS = ("train", "validation", "test")
PARTS = ("cap", "qa", "cot", "vcot", "passive", "rl", "eval")

# A part's splits: what has assistant turns is made of validation videos too, to watch losses.
SPLITS_OF_PART = {
    **dict.fromkeys(("cap", "qa", "cot", "vcot", "passive"), ("train", "validation")),
    "rl": ("train",),
    "eval": ("validation", "test"),
}
