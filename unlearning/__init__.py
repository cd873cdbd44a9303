"""Methods that make a model forget, and the measures that judge them. Pure PyTorch: knows nothing of Flower."""

from fedquit.unlearning import ladders as ladders
from fedquit.unlearning.ascent import Ascent
from fedquit.unlearning.auxiliary_head import AuxiliaryHead
from fedquit.unlearning.federaser import FedEraser
from fedquit.unlearning.fedquit import FedQUIT
from fedquit.unlearning.methods import METHODS, Method, Traits, all_methods, make_method
from fedquit.unlearning.mode import MoDe
from fedquit.unlearning.negate import Negate
from fedquit.unlearning.orthogonal import Orthogonal
from fedquit.unlearning.projected_ascent import ProjectedAscent
from fedquit.unlearning.pseudo_ascent import PseudoAscent
from fedquit.unlearning.references import Continue, Retrain
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.session import Answer, History, Session
from fedquit.unlearning.teachers import TEACHERS, virtual_teacher

__all__ = [
    "METHODS",
    "TEACHERS",
    "Answer",
    "Ascent",
    "AuxiliaryHead",
    "Continue",
    "FedEraser",
    "FedQUIT",
    "History",
    "Method",
    "MoDe",
    "Negate",
    "Orthogonal",
    "ProjectedAscent",
    "PseudoAscent",
    "Retrain",
    "Samples",
    "Session",
    "Traits",
    "all_methods",
    "make_method",
    "virtual_teacher",
]
