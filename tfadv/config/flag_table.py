"""Every flag of the programs, as data; those of a training are in `training_flags`."""

import dataclasses

from tfadv.config.training_flags import (
    AT_ONCE,
    ATTACK,
    COMMON,
    DATA,
    IMAGES,
    STALL_SECONDS,
    STEPS,
    TRAIN,
    Flag,
)

# Which model a program uses, and what its images are.
_MODEL = (
    Flag("run_dir", str, None, "Directory of a finished or running training."),
    Flag("checkpoint", str, "last", "Of run_dir: last, best, or the number of an epoch."),
    Flag("model", str, None, "A .keras file, in place of run_dir."),
    Flag(
        "value_range",
        [int],
        None,
        "Of the images, for a model without an input contract.",
        -65_536,
        65_536,
    ),
)

EVALUATE = (
    *_MODEL,
    *[dataclasses.replace(flag, default=None) for flag in DATA],
    Flag(
        "num_steps",
        [int],
        (10, 20, 100, 500, 2000),
        "Attack iterations, a list; none for clean images alone.",
        1,
        STEPS,
    ),
    dataclasses.replace(
        ATTACK[0],
        default=None,
        help=ATTACK[0].help + " By default what the run was trained with, or 16.",
    ),
    *ATTACK[1:],
    Flag("start_from_clean", float, 0.0, "Share of images attacked from the image itself.", 0, 1),
    Flag(
        "domain",
        str,
        "adv",
        "Branch of a mixture that is attacked and evaluated.",
        choices=("adv", "clean", "both"),
    ),
    Flag("images_per_worker", int, 32, "Images attacked at a time.", 1, AT_ONCE),
    Flag("limit", int, None, "Images to evaluate; by default the whole validation set.", 1, IMAGES),
    STALL_SECONDS,
    Flag("sanity_checks", bool, True, "Whether the evaluation also checks itself."),
    Flag("output", str, None, "JSON file; by default evaluation.json in run_dir."),
    *COMMON,
)

PREDICT = (
    *_MODEL,
    Flag(
        "domain",
        str,
        "adv",
        "Branch of a mixture that classifies.",
        choices=("adv", "clean"),
    ),
    Flag("class_names", bool, False, "Whether to write the class's name too."),
    Flag("probability", bool, False, "Whether to write the class's probability too."),
    Flag("dataset", str, None, "Data set whose class names count; by default that of run_dir."),
    Flag("data_dir", str, None, "Directory of the data set."),
    Flag(
        "image_size", int, None, "Height and width in pixels, for a model that takes any.", 1, 4096
    ),
    Flag("batch_size", int, 32, "Images classified at a time.", 1, AT_ONCE),
    Flag("output", str, None, "File for the lines; by default they are printed."),
    Flag("check", bool, False, "Only check the flags."),
)

# What the mini-batches of an inspection are, where they shall not be those of the run's training.
MINI_BATCHES = tuple(
    dataclasses.replace(flag, default=None)
    for flag in TRAIN
    if flag in (*DATA, *ATTACK)
    or flag.name
    in ("adversarial", "clean_ratio", "num_steps", "start_from_clean", "images_per_worker")
)

INSPECT = (
    *_MODEL,
    Flag("layer", str, None, "Layer of the figures; by default the middle one of res3."),
    Flag("channels", int, 20, "How many channels the figures show.", 1, 1000),
    Flag(
        "domain",
        str,
        "adv",
        "Branch of a mixture that Figure 6 shows.",
        choices=("adv", "clean"),
    ),
    Flag(
        "figure6",
        bool,
        True,
        "Whether to measure batch statistics, which takes training data: dataset, beside model.",
    ),
    *MINI_BATCHES,
    Flag("seed", int, 0, "Of the channels and the mini-batches.", 0, 2**31 - 1),
    Flag("output", str, None, "Directory for everything; by default inspection in run_dir."),
    Flag("check", bool, False, "Only check the flags and that the data are there."),
)

REPORT = (Flag("output", str, "report", "Directory for the report, its tables and figures."),)

PLAN = (
    *[flag for flag in TRAIN if flag.name != "run_dir"],
    Flag(
        "run_dir",
        str,
        None,
        "Directory of a training whose flags are planned for; the other flags win over them. (In a "
        "flagfile it says where a training writes, and is not read.)",
    ),
    Flag(
        "workers",
        int,
        1,
        "Devices that the training is planned for, a worker on each.",
        1,
        1_000_000,
    ),
    Flag(
        "device",
        str,
        "h100",
        "Their kind: v100, a100, h100, h200, t4 or cpu (one core), or here, which measures what "
        "this machine reaches with the network itself.",
    ),
    Flag("efficiency", float, None, "Share of the device's peak; by default its table's.", 1e-6, 1),
    Flag(
        "bandwidth",
        float,
        5.0,
        "Gigabytes per second of the slowest connection between workers. (5 is 50 Gbit/s Ethernet "
        "at four fifths, as between the machines of this paper's time.)",
        1e-6,
        1e6,
    ),
    Flag("latency", float, 20.0, "Microseconds of one step of a ring all-reduce.", 0, 1e9),
    Flag(
        "jitter",
        float,
        0.02,
        "Standard deviation of what one worker takes to compute an update, over its mean.",
        0,
        1,
    ),
)
