"""Clean and robust accuracy over a data set, exact over any number of workers."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Evaluator": "accuracy",
        "Result": "results",
        "evaluate": "accuracy",
        "progress_bar": "progress",
        "table": "tables",
        "write_json": "files",
    },
)
