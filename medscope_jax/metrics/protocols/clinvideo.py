"""ClinVideo-Eval's columns: grounding R@.3, R@.5, R@.7 and mIoU; VQA mIoU and accuracy.

The paper has a column group for each source and task: OphVL's and MedVideoCap's questions are in
domain, SurgVidLM's out of domain. `uncertainty.estimates` makes them of these values.
"""

import math

from medscope_jax.metrics.grounding import THRESHOLDS, Prediction, localization, recall_at
from medscope_jax.rl.rewards import Evidence


def clinvideo_question(
    task: str,
    prediction: Prediction,
    evidence: Evidence,
    judge_score: float,
    frame_window: float = 1.0,
) -> dict[str, float]:
    """A question's values: iou and recall_0.3, recall_0.5, recall_0.7 of a grounding question; iou
    and accuracy of any other.

    Args:
      task: "grounding", "vqa", ...
      prediction: what the trajectory points to, see grounding.predicted_evidence; None scores 0.
      evidence: spans or one frame time; [] where there is none, and no iou then.
      judge_score: of the answer; a full 1 is right, NaN is no value.
      frame_window: seconds, see grounding.localization.
    """
    values = {}
    if not hasattr(evidence, "__len__") or len(evidence) > 0:
        values["iou"] = localization(prediction, evidence, frame_window)
        if task == "grounding":
            values |= {f"recall_{at}": recall_at([values["iou"]], at) for at in THRESHOLDS}
    if task != "grounding":
        values["accuracy"] = math.nan if math.isnan(judge_score) else float(judge_score >= 1)
    return values
