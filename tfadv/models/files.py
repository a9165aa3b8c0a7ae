"""Loads models from files that need not be trusted."""

import concurrent.futures
import os
import zipfile

import keras

_LONGEST = 300  # characters of a message: Keras's own may hold a whole configuration


def load(path: str | os.PathLike, compile: bool = True, name: str = "model") -> keras.Model:
    """Loads a Keras model without running any code that the file holds or names.

    Keras's safe mode is on, even after `keras.config.enable_unsafe_deserialization()`. A file does
    not load if it has a Lambda layer, or names a function or class that is neither Keras's nor
    registered with it.

    Args:
        path: Path of a `.keras` file.
        compile: Boolean, whether to load its optimizer and loss as well, if it has them.
        name: String, what to call the file in messages.

    Returns:
        A Keras model.

    Raises:
        ValueError: In one line, if it does not load, whatever Keras raises for it.

    Example:

    ```python
    model.save("robust.keras")
    model = tfadv.models.load("robust.keras", compile=False)
    ```
    """
    try:
        _check_members(path)
        # In a thread of its own: unsafe deserialization is enabled per thread, where it wins over
        # `safe_mode`.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            model = thread.submit(
                keras.saving.load_model, path, compile=compile, safe_mode=True
            ).result()
        if not isinstance(model, keras.Model):
            raise ValueError(f"it holds a {type(model).__name__}, which is not a model")
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."
        raise ValueError(f"{name} must be a Keras file that loads; {path}: {reason}") from None
    return model


def _check_members(path):
    """Raises `ValueError` for an archive with a member that a saved model does not have.

    Keras unpacks an archive with more than the usual three members to the disk, and only skips a
    member whose path leaves the directory, with a warning.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    for member in members:
        parts = member.split("/")
        usual = member in ("metadata.json", "config.json", "model.weights.h5")
        if not usual and (parts[0] != "assets" or ".." in parts or "\\" in member):
            raise ValueError(f"it holds a member {member!r}")
    if len(set(members)) != len(members):
        raise ValueError("it holds two members of one name")
