"""Methods that make a model forget, and the measures that evaluate them. Pure PyTorch: knows nothing of Flower."""

from fedquit.unlearning.distillation import ladders as ladders
from fedquit.unlearning.distillation.teachers import TEACHERS, virtual_teacher
from fedquit.unlearning.methods.ascent import Ascent
from fedquit.unlearning.methods.auxiliary_head import AuxiliaryHead
from fedquit.unlearning.methods.base import METHODS, Method, Traits, all_methods, make_method
from fedquit.unlearning.methods.federaser import FedEraser
from fedquit.unlearning.methods.fedquit import FedQUIT
from fedquit.unlearning.methods.mode import MoDe
from fedquit.unlearning.methods.negate import Negate
from fedquit.unlearning.methods.orthogonal import Orthogonal
from fedquit.unlearning.methods.projected_ascent import ProjectedAscent
from fedquit.unlearning.methods.pseudo_ascent import PseudoAscent
from fedquit.unlearning.methods.references import Continue, Retrain
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.session import ClientReply, History, Session

__all__ = [
    "METHODS",
    "TEACHERS",
    "Ascent",
    "AuxiliaryHead",
    "ClientReply",
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
