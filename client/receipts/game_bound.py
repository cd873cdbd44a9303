"""How well any attack can tell two candidate sets apart from one clipped and noisy step, for receipts to say.

The step is that of `fedquit.unlearning.leak.blurred_step`.
"""

import math


def game_bound(noise: float) -> float:
    """Return the largest area under the ROC curve that any attack on one noisy step can have.

    Args:
        noise: standard deviation of the noise of one parameter, as a multiple of the norm that the step is clipped to.

    >>> [round(game_bound(noise), 3) for noise in (0.0, 1.0, 4.0, 10.0)]
    [1.0, 0.921, 0.638, 0.556]
    """
    return 0.5 * (1 + math.erf(1 / noise)) if noise else 1.0
