"""Designs: the distributions that masks are drawn from."""

from .sampling import Bernoulli, Design, Fidelity, Paired

__all__ = ["Bernoulli", "Design", "Fidelity", "Paired"]
