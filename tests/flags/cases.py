"""The paper's rows, and the flagfiles."""

import csv
import pathlib

from tfadv import settings
from tfadv.programs import flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = ROOT / "flags"
TRAIN = sorted(p for p in FLAGS.rglob("*.flags") if p.parent.name not in ("eval", "parts"))
EVALUATE = sorted((FLAGS / "eval").glob("*.flags"))
NUMBERS = {
    "clean": "clean", "pgd10": "PGD-10", "pgd20": "PGD-20", "pgd100": "PGD-100",
    "pgd500": "PGD-500", "pgd2000": "PGD-2000",
}  # fmt: skip


def name(path):
    return str(path.relative_to(FLAGS).with_suffix(""))


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def train(path):
    """The settings of a flagfile, or of the name of one."""
    return flags.parse(settings.TRAIN, [f"--flagfile={file(path)}"])


def file(path):
    return path if isinstance(path, pathlib.Path) else FLAGS / f"{path}.flags"


ROWS = read(ROOT / "tfadv" / "paper" / "paper.tsv")
RUNS = list(dict.fromkeys(row["flagfile"] for row in ROWS))


def row_of(table, flagfile):
    return next(row for row in ROWS if (row["table"], row["flagfile"]) == (table, flagfile))


def pgd2000(flagfile):
    return float(row_of("7", flagfile)["pgd2000"])
