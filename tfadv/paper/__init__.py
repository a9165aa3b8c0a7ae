"""The paper's tables and figures, filled with the results of finished runs."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {"Report": "report", "Run": "results", "published": "results", "trained": "settings"},
)
