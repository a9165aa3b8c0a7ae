"""Clean and robust accuracy over a data set, exact over any number of workers."""

from tfadv.evaluation.accuracy import evaluate
from tfadv.evaluation.evaluator import Evaluator
from tfadv.evaluation.files import write_json
from tfadv.evaluation.journal import Journal
from tfadv.evaluation.progress import progress_bar
from tfadv.evaluation.scalars import write_scalars
from tfadv.evaluation.self_checks import Doubt, doubts
from tfadv.evaluation.tables import table
from tfadv.results import Result

__all__ = [
    "Doubt",
    "Evaluator",
    "Journal",
    "Result",
    "doubts",
    "evaluate",
    "progress_bar",
    "table",
    "write_json",
    "write_scalars",
]
