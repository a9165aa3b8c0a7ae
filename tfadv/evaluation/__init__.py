"""Clean and robust accuracy over a data set, exact over any number of workers."""

from tfadv.evaluation.evaluator import Evaluator, evaluate
from tfadv.evaluation.journal import Journal
from tfadv.evaluation.reports import progress_bar, read_json, table, write_json, write_scalars
from tfadv.evaluation.self_checks import Doubt, doubts
from tfadv.results import Result

__all__ = [
    "Doubt",
    "Evaluator",
    "Journal",
    "Result",
    "doubts",
    "evaluate",
    "progress_bar",
    "read_json",
    "table",
    "write_json",
    "write_scalars",
]
