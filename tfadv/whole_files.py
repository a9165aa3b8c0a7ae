"""Files that are either whole or absent, whenever their writer or the machine stops."""

import contextlib
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator


@contextlib.contextmanager
def aside(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a path to write to; that file takes the name `path` once all of it is on the disk.

    It lies in a folder of its own beside `path`, together with anything else that its writer puts
    there. If the process is killed, the folder stays, and the next writer of `path` removes it.

    Args:
        path: Path of the file, in a folder that exists.

    Raises:
        OSError: Naming `path`, if it cannot be written; what was there before is unchanged.
    """
    path = pathlib.Path(path)
    folder = path.with_name(f".{path.name}.writing")
    try:
        try:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            yield folder / path.name
            _sync(folder / path.name)
            (folder / path.name).replace(path)
            _sync(path.parent)
        finally:
            # On a file system that has become read-only, the first error is the one to report.
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a whole text file."""
    with aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest()


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Removes what killed writers of files in a folder left there."""
    for leftover in pathlib.Path(folder).glob(".*.writing"):
        shutil.rmtree(leftover, ignore_errors=True)


def _sync(path):
    """Waits until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
