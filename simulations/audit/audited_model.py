"""A model file under test: read, checked against the run's architecture, evaluated once and measured."""

import copy
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.data.evaluation_sets import Sets
from fedquit.client.models.model_file import model_hash
from fedquit.client.training.evaluate_model import Outputs, measure, outputs_of
from fedquit.documents import Document
from fedquit.errors import FedquitError, InputError
from fedquit.settings import Settings
from fedquit.simulations.audit.foreign_weights import load_weights
from fedquit.simulations.simulate.verdict_of_run import score_text
from fedquit.unlearning.evaluation.measures import logit_confidence, svc_attack
from fedquit.unlearning.tensors.accelerator import placed

SVC_SAMPLES = 2000  # of each kind; a support vector machine takes time in their square


@dataclass(frozen=True)
class AuditedModel:
    """A model, its outputs, its file, and its measures."""

    file: Path
    sha256: str
    model: nn.Module
    outputs: Outputs
    measures: Document

    def logit_confidence(self) -> Tensor:
        """Return its probability of the true class on D_f as a logit, exact however sure it is, [N]."""
        return logit_confidence(self.outputs.log_p["forget"], self.outputs.labels["forget"])

    def evidence(self) -> Document:
        """Return what the verdict goes by, as a report has it."""
        return {**self.measures, "scores": score_text(self.outputs), "model_sha256": self.sha256}

    def document(self) -> Document:
        """Return what the audit says of it."""
        return {"file": str(self.file), **self.measures, "model_sha256": self.sha256}


def read_model(path: Path, settings: Settings) -> tuple[nn.Module, str]:
    """Return the model in a file, and the SHA-256 of the safetensors file that fedquit writes of it.

    Raises:
        InputError: there is no such file, it is damaged, or it holds another kind of model.
    """
    model = copy.deepcopy(empty_model(settings.key()))
    try:
        load_weights(model, path.read_bytes(), path, f"model '{settings.model}' on {settings.dataset}")
    except OSError as error:
        raise InputError(f"cannot read the model {path} ({error.strerror or error})") from None
    except InputError:
        raise
    except FedquitError as error:
        raise InputError(str(error)) from None
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        raise InputError(f"{path} holds NaN or infinity: there is nothing to evaluate")
    sha256 = model_hash(model.state_dict())
    return placed(model), sha256


def read_audited(path: Path, settings: Settings, sets: Sets) -> AuditedModel:
    """Read a model, run it on every sample of the sets, and measure its outputs."""
    model, sha256 = read_model(path, settings)
    outputs = outputs_of(model, sets)
    measures = measure(outputs, sets)
    p, y = outputs.pair("test")
    retain, forget = outputs.pair("retain"), outputs.pair("forget")
    share = svc_attack(retain, (p[:SVC_SAMPLES], y[:SVC_SAMPLES]), forget, seed=settings.seed)
    measures["attacks"]["svc"] = {"member_rate": 1 - share}
    return AuditedModel(path, sha256, model, outputs, measures)
