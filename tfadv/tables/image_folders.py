"""Directories of images in ImageNet's layout, `{train,val}/<class>/<images>`, without TensorFlow.

What becomes of each item, by its name and kind (`tfadv.data.decoding`: by an image's contents):

    folder in train or val           a class: it must be in both and hold at least one image in each
    hidden, or a tool's: __MACOSX    refused at the start among the classes, since it would be one
                                     more; left out in a class's folder
    .jpeg .jpg .png .gif .bmp .webp  an image, of whatever format its contents are
    .tif .heic and so on             refused at the start: we cannot read it, and without it an
                                     evaluation would have fewer images than there are
    any other name, or a hidden one  left out, as notes and lists are
    folder in a class's folder       left out
    link to an image or a class      followed, wherever it leads: parts of ImageNet are commonly
                                     links; a class is never searched deeper, so no link can lead
                                     in a circle
    link to nothing                  refused at the start
    pipe, socket, device             refused at the start: reading it might never end
"""

import itertools
import os
import stat
from collections.abc import Iterator

SPLITS = ("train", "val")

_EXTENSIONS = (".jpeg", ".jpg", ".png", ".gif", ".bmp", ".webp")
_OTHER_EXTENSIONS = (
    ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".tga",
)  # fmt: skip

# Folders that archivers, network drives, file systems and recycle bins leave; others are hidden.
_OF_TOOLS = (
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
)


def classes(data_dir: str | None) -> list[str]:
    """Lists the classes of a directory, and checks that each of them has images.

    Args:
        data_dir: The directory.

    Returns:
        The class folders' names, sorted: label k is the k-th.

    Raises:
        ValueError: If the layout is another one, `train` and `val` hold different classes or
            folders that are no classes, or a class has no image in one of them.
    """
    if not data_dir:
        raise ValueError("data_dir must be given for image_folder; received None")
    data_dir = os.path.expanduser(data_dir)
    names, foreign = {}, []
    for split in SPLITS:
        folder = os.path.join(data_dir, split)
        if not os.path.isdir(folder):
            raise ValueError(
                f"data_dir must hold the folders train and val, each with one folder a class; "
                f"{folder} is not there"
            )
        with os.scandir(folder) as items:
            folders = sorted(item.name for item in items if _is_folder(item))
        names[split] = [name for name in folders if not is_foreign(name)]
        foreign += [os.path.join(folder, name) for name in folders if is_foreign(name)]
    if foreign:
        raise ValueError(
            "data_dir must hold one folder a class in train and val and no others, hidden or made "
            f"by a tool; remove {_listed(foreign)}"
        )
    for split in SPLITS:
        if not names[split]:
            folder = os.path.join(data_dir, split)
            raise ValueError(f"data_dir must hold one folder a class; {folder} holds none")
    train, validation = (names[split] for split in SPLITS)
    if train != validation:
        odd = sorted(set(train) ^ set(validation))[0]
        here, there = ("train", "val") if odd in train else ("val", "train")
        raise ValueError(
            f"train and val must hold the same class folders; in {data_dir} {odd!r} is in {here} "
            f"and not in {there}"
        )
    for split in SPLITS:
        _check_images(os.path.join(data_dir, split), train)
    return train


def images(data_dir: str, split: str, names: list[str]) -> Iterator[tuple[bytes, int]]:
    """Yields a split's images as pairs (path, label), class by class and sorted.

    Args:
        data_dir: The directory.
        split: `"train"` or `"val"`.
        names: The `classes`.
    """
    folder = os.path.join(os.path.expanduser(data_dir), split)
    for label, name in enumerate(names):
        directory = os.path.join(folder, name)
        with os.scandir(directory) as items:
            files = sorted(item.name for item in items if _is_image(item))
        for file in files:
            yield os.fsencode(os.path.join(directory, file)), label


def count(data_dir: str, split: str, names: list[str], limit: int | None = None) -> int:
    """Counts a split's images, up to `limit`."""
    return sum(1 for _ in itertools.islice(images(data_dir, split, names), limit))


def is_foreign(name: str) -> bool:
    """Whether a folder's name says that it holds no data: it is hidden, or made by a tool."""
    return name.startswith(".") or name in _OF_TOOLS


def _check_images(folder, names):
    empty = [name for name in names if not _holds_images(os.path.join(folder, name))]
    if not empty:
        return
    # In a folder without any image it is not a class that is wrong.
    paths = [os.path.join(folder, name) for name in empty] if len(empty) < len(names) else [folder]
    raise ValueError(
        f"data_dir must hold images ({', '.join(_EXTENSIONS)}) of every class in train and val; "
        f"{_listed(paths)} {'holds' if len(paths) == 1 else 'hold'} none"
    )


def _holds_images(directory):
    with os.scandir(directory) as items:
        return any(_is_image(item) for item in items)


def _is_folder(item):
    if item.is_dir():
        return True
    if not item.name.startswith(".") and item.is_symlink() and not os.path.exists(item.path):
        raise _link_to_nothing(item)
    return False


def _is_image(item):
    name = item.name.lower()
    if name.startswith(".") or not name.endswith(_EXTENSIONS + _OTHER_EXTENSIONS):
        return False
    if name.endswith(_OTHER_EXTENSIONS):
        raise ValueError(
            f"data_dir must hold images as {', '.join(_EXTENSIONS)}; received {item.path}"
        )
    try:
        if item.is_file():  # asks the file system only about links
            return True
        if stat.S_ISDIR(item.stat().st_mode):
            return False
    except OSError:
        raise _link_to_nothing(item) from None
    raise ValueError(f"data_dir must hold plain files; {item.path} is none")


def _link_to_nothing(item):
    return ValueError(f"data_dir must not hold links to nothing; {item.path} is one")


def _listed(paths):
    """The first few of some paths, and how many more there are."""
    shown = ", ".join(paths[:3])
    return shown + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
