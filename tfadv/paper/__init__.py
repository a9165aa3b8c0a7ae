"""The paper's tables and figures, filled with the results of finished runs."""

from tfadv.paper.report import Report
from tfadv.paper.results import channels, measured, merged, published
from tfadv.paper.settings import trained

__all__ = ["Report", "channels", "measured", "merged", "published", "trained"]
