"""Reads models from files that may come from anywhere."""

import concurrent.futures
import zipfile

import keras

# Of a message: Keras's own may hold a whole configuration.
_LONGEST = 300


def load(path, compile=True, name="model"):
    """Loads a Keras model; a file is data, and no code that it holds or names is run.

    Keras's safe mode is on, also where `keras.config.enable_unsafe_deserialization()` was called:
    a file with a Lambda layer, or one that names a function or class from elsewhere than Keras and
    what is registered with it, does not load.

    Args:
        path: Of a `.keras` file.
        compile: Whether to load its optimizer and loss as well, where it has them.
        name: What the file is to the user, for messages.

    Returns:
        A Keras model.

    Raises:
        ValueError: In one line, if it does not load, whatever Keras raises for it.
    """
    try:
        _check_members(path)
        # In a thread of its own, because unsafe deserialization is enabled for a thread, and there
        # wins over `safe_mode`.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            model = thread.submit(
                keras.saving.load_model, path, compile=compile, safe_mode=True
            ).result()
        if not isinstance(model, keras.Model):
            raise ValueError(f"it holds a {type(model).__name__}, which is no model")
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."
        raise ValueError(f"{name} must be a Keras file that loads; {path}: {reason}") from None
    return model


def _check_members(path):
    """Raises `ValueError` for an archive with a member that a model does not have.

    Keras unpacks an archive with more than the usual three to the disk; one of a path that leaves
    the directory it only skips, with a warning.
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
