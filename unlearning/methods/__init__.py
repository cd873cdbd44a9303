"""Methods of unlearning, one a file; `base` is their interface."""

from fedquit.unlearning.methods.base import METHODS, Method, Traits, all_methods, make_method, method

__all__ = ["METHODS", "Method", "Traits", "all_methods", "make_method", "method"]
