"""Says in one line which file could not be read."""

import re

# `decoding.named` puts this in front of the name; TensorFlow prints it with the name after it.
UNREADABLE = "unreadable image file"

_PATTERN = re.compile(rf"\[{UNREADABLE}\] \[(.*)\]\s*$", re.MULTILINE)


def explain(error):
    """Says what an input pipeline failed on: an image file by its name, or damaged TFRecords.

    A decoding error of TensorFlow does not say which file it met. The pipelines of this package
    add the name (`decoding.named`); it arrives inside a long `InvalidArgumentError` raised by
    whoever consumed the batch (`fit`, or a loop over the data set). The name is the path in an
    image folder, and for `imagenet2012` the file's name in ImageNet's archives.

    Args:
        error: An exception.

    Returns:
        One line, such as `"unreadable image file: <name>"`; None if the error is something else.
    """
    # By name, because this module does without TensorFlow; checkpoints can raise it as well.
    if type(error).__name__ == "DataLossError" and " record at " in str(error):
        detail = re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", str(error)).strip()
        return f"damaged file of a prepared data set (remove it and prepare it again): {detail}"
    match = _PATTERN.search(str(error))
    if match is None:
        return None
    name = re.sub(r"\\(.)", r"\1", match.group(1))  # TensorFlow escapes quotes and backslashes.
    return f"{UNREADABLE}: {name}"
