"""The paper's tables and figures, filled with the results of finished runs."""

from tfadv.paper.report import Report
from tfadv.paper.results import Run, published
from tfadv.paper.settings import trained

__all__ = ["Report", "Run", "published", "trained"]
