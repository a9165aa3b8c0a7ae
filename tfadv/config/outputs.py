"""Whether results can be written, asked before the work that makes them."""

import pathlib


def check_file(path):
    """Raises `ValueError` unless a file can be made at the path of `--output`."""
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"output must be a file; {path} is a directory")
    if not path.parent.is_dir():
        raise ValueError(f"output must be in a directory that is there; received {path}")


def check_directory(name, path):
    """Raises `ValueError` unless a directory is, or can be made, at the path of a flag."""
    path = pathlib.Path(path)
    found = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not found.is_dir():
        raise ValueError(f"{name} must be a directory; received {path}, where {found} is a file")
