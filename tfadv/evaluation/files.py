import json
import os
import tempfile

from tfadv import distributed


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
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    folder, name = os.path.split(os.fspath(path))
    # In the same folder, since a file can only be renamed at once within its file system.
    handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder or ".")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp's file is for its owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
