"""Methods that make a model forget, and the measures that judge them. Pure PyTorch: knows nothing of Flower."""

from fedquit.unlearning import ladders as ladders
from fedquit.unlearning.fedquit import FedQUIT
from fedquit.unlearning.methods import METHODS, all_methods, make_method
from fedquit.unlearning.references import Continue, Retrain
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.teachers import TEACHERS, virtual_teacher

__all__ = [
    "METHODS",
    "TEACHERS",
    "Continue",
    "FedQUIT",
    "Retrain",
    "Samples",
    "all_methods",
    "make_method",
    "virtual_teacher",
]
