"""Maths on models: vectors of weights, exact means, fitting, inference."""
