"""What an audit tests besides the verdict: relearning, and single samples by shadow models.

Each is tested separately, like the verdict's measures against one more retrained model, with the whole share of the
under-forgetting side. They are not part of the verdict, which is the same test in a report and in an audit, and whose
error rates were measured without them.
"""

from math import log2
from typing import Any

from fedquit.documents import Document
from fedquit.unlearning.evaluation.prediction_interval import predict_one_more
from fedquit.unlearning.evaluation.verdict import HIGH, LOW, REFERENCES, UNDER_FORGETTING, hold

HALF_A_DOUBLING = 0.5  # steps are whole numbers and few: retrained models that agree to the step prove little


def further_tests(found: Document, max_steps: int) -> dict[str, dict[str, Any]]:
    """Return the tests that could be made, as `Verdict.measures` has them; none with fewer references than those need.

    Args:
        found: what the audit says of "relearn" and "u_lira"; null where it could not be measured.
        max_steps: steps after which relearning was given up; a model that needs more counts as this.
    """
    tested = {}
    if found["relearn"]:
        each = [steps["on_forget"] for steps in (found["relearn"]["model"], *found["relearn"]["references"])]
        doublings = [log2(1 + (max_steps if steps is None else steps)) for steps in each]
        tested["relearn"] = (doublings, HALF_A_DOUBLING, LOW)
    if found["u_lira"]:
        ratios = found["u_lira"]["mean_ratio"]
        tested["u_lira"] = ([ratios["model"], *ratios["references"]], 0.0, HIGH)
    return {
        name: hold(values[0], predict_one_more(values[1:], floor), UNDER_FORGETTING, side)
        for name, (values, floor, side) in tested.items()
        if len(values) > REFERENCES
    }
