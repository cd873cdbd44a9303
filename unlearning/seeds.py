"""Seeds for every random choice, derived from the run's seed and what the choice is for.

No choice then depends on what was chosen before it, on which worker made it, or on how often a run was resumed.
"""

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for `purpose`.

    >>> derive_seed(0, "train", 3, 7) == derive_seed(0, "train", 3, 7) != derive_seed(0, "train", 3, 8)
    True
    """
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
