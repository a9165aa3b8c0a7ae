"""Files that are either whole or not there, whenever their writer or the machine stops."""

import contextlib
import os
import pathlib
import shutil


@contextlib.contextmanager
def aside(path):
    """Gives a path to write to, which takes its own name when all of it is on the disk.

    It lies in a folder of its own beside `path`, for whatever else its writer puts down there. A
    process that is killed leaves that folder; the next writer of `path` removes it.

    Args:
        path: Of the file, whose folder must exist.

    Raises:
        OSError: Naming `path`, if it cannot be written; what was there before is as it was.
    """
    path = pathlib.Path(path)
    folder = path.with_name(f".{path.name}.writing")
    try:
        try:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            yield folder / path.name
            sync(folder / path.name)
            (folder / path.name).replace(path)
            sync(path.parent)
        finally:
            # Where the file system has become read-only, the first mistake is the one to name.
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error


def write_text(path, text):
    """Writes a text file whole."""
    with aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder):
    """Removes what killed writers of files in a folder left."""
    for leftover in pathlib.Path(folder).glob(".*.writing"):
        shutil.rmtree(leftover, ignore_errors=True)


def sync(path):
    """Waits until a file, or what a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
