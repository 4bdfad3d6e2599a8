"""Outcomes: what is measured for each masked forward pass."""

from .network import Accuracy, Divergence, Loss, Margin, Outcome, PerExample, PerMask, RetainedAccuracy

__all__ = ["Accuracy", "Divergence", "Loss", "Margin", "Outcome", "PerExample", "PerMask", "RetainedAccuracy"]
