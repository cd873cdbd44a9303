"""How many samples models are measured on, and the verdict on one held against retrained models.

Shared by the report of a run and by `fedquit audit`, so that both mean the same by the same name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from fedquit.client.data.evaluation_sets import Sets
from fedquit.client.training.evaluate_model import PARTS
from fedquit.documents import Document
from fedquit.unlearning.evaluation.verdict import verdict_of


def sample_counts(sets: Sets) -> dict[str, int]:
    """Return how many samples each of `PARTS` has."""
    return {part: len(getattr(sets, part)) for part in PARTS}


def verdict(candidate: Document, references: Sequence[Document], samples: Mapping[str, int]) -> Document:
    """Hold a measured model against measured retrained ones, on what each says of D_f, D_r and D_t.

    Args:
        candidate: what `measure` said of it.
        references: what it said of the retrained ones.
        samples: how many "forget", "retain" and "test" samples those were.
    """
    counts = {f"{part}_accuracy": samples[part] for part in PARTS} | {"attacked_as_member": samples["forget"]}

    def rates(measured: Document) -> dict[str, float]:
        member_rate = measured["attacks"]["modified_entropy"]["member_rate"]
        return {**{name: measured[name] for name in counts if name in measured}, "attacked_as_member": member_rate}

    held = [rates(reference) for reference in references]
    return asdict(verdict_of(rates(candidate), held, samples["forget"], measures=counts))
