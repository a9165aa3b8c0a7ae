"""Clean and robust accuracy over a data set, exact over any number of workers."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Doubt": "self_checks",
        "Evaluator": "evaluator",
        "Journal": "journal",
        "Result": "results",
        "doubts": "self_checks",
        "evaluate": "accuracy",
        "progress_bar": "progress",
        "table": "tables",
        "write_json": "files",
        "write_scalars": "scalars",
    },
)
