"""Measure retrieval on labelled questions, and find the weights that suit them (extra: eval)."""

from bgem3.evaluation.dataset import Dataset as Dataset
from bgem3.evaluation.evaluate import Evaluation as Evaluation
from bgem3.evaluation.evaluate import evaluate as evaluate
from bgem3.evaluation.report import markdown as markdown
from bgem3.evaluation.report import save as save
from bgem3.evaluation.systems import System as System
from bgem3.evaluation.systems import make_systems as make_systems
from bgem3.evaluation.tuning import Tuning as Tuning
from bgem3.evaluation.tuning import tune as tune

__all__ = ["Dataset", "Evaluation", "System", "Tuning", "evaluate", "make_systems", "markdown", "save", "tune"]
