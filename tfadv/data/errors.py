"""Says in one line which file could not be read, and whether that was the file system's failure."""

import re

# `decoding.named` puts this in front of the name; TensorFlow prints it with the name after it.
UNREADABLE = "unreadable image file"
# What `decoding.attempt` puts after the name of a file whose bytes did not come at all.
FAILED = " (reading it failed)"

_PATTERN = re.compile(rf"\[{UNREADABLE}\] \[(.*)\]\s*$", re.MULTILINE)
# A damaged record of `records.read`; what may follow its name is of `decoding` and `broken`.
_RECORD = re.compile(
    r"record \d+ of (.*?)( \(nothing could be read\)| \(more than max_| and all others of|$)"
)


def explain(error):
    """Says what an input pipeline failed on: an image file by its name, or damaged TFRecords.

    A decoding error of TensorFlow does not say which file it met. The pipelines of this package
    add the name (`decoding.named`); it arrives inside a long `InvalidArgumentError` raised by
    whoever consumed the batch (`fit`, or a loop over the data set). The name is the path in an
    image folder, and for `imagenet2012` the file's name in ImageNet's archives. Where the file
    system failed (`is_io_error`) and still does, what the system says is added.

    Args:
        error: An exception.

    Returns:
        One line, such as `"unreadable image file: <name>"`; None if the error is something else.
    """
    # By name, because this module does without TensorFlow; checkpoints can raise it as well.
    if type(error).__name__ == "DataLossError" and " record at " in str(error):
        detail = re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", str(error)).strip()
        return f"damaged file of a prepared data set (remove it and prepare it again): {detail}"
    name = _name(error)
    if name is None:
        return None
    reason = _reason(name)
    if reason is not None:
        name += f": {reason}"
    return f"{UNREADABLE}: {name}"


def is_io_error(error):
    """Whether what `explain` explains is the file system's failure and not a file's content.

    Args:
        error: An exception.

    Returns:
        True where a file did not open or its bytes did not come: its disk or server fails, or it
        is gone. What it holds may well be an image.
    """
    name = _name(error)
    return name is not None and (FAILED in name or _reason(name) is not None)


def _name(error):
    match = _PATTERN.search(str(error))
    # TensorFlow escapes quotes and backslashes.
    return None if match is None else re.sub(r"\\(.)", r"\1", match.group(1))


def _reason(name):
    """What the system says against reading the file of a name again; None where it reads it."""
    record = _RECORD.match(name)
    if record is None and FAILED not in name:
        return None
    try:
        with open(record.group(1) if record else name.partition(FAILED)[0], "rb") as file:
            while file.read(2**20):
                pass
    except OSError as failure:
        return failure.strerror
    return None
