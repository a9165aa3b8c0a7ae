import json

from tfadv import distributed, whole_files


def write_json(path, results, **details):
    """Writes results to a file that is either whole or not there; rank 0 alone writes.

    Args:
        path: String or path; its folder must exist.
        results: List of `Result`.
        **details: Anything JSON holds, written beside them, such as `model=` and `data=`.
    """
    if distributed.rank() != 0:
        return
    document = {**details, "results": [result.as_dict() for result in results]}
    whole_files.write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")
