"""The paper's tables and figures from finished runs, ours beside the paper's."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "PaperProtocol": "paper",
        "Report": "report",
        "Run": "runs",
        "rows": "paper",
        "trained": "settings",
        "validation": "paper",
    },
)
