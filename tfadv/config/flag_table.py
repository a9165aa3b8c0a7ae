"""Every flag of the programs, as data: name, kind, default, rule, what it is."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: As on the command line.
        kind: `int`, `float`, `str`, `bool`, or `[int]` for a list of integers.
        default: Its value if it is not given; None where something else decides.
        help: What it is, with its unit.
        low, high: The least and the greatest value, of every element of a list.
        choices: The values of a string.
    """

    name: str
    kind: object
    default: object
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple = ()


# The attack's flags, with the paper's values (Section 3).
ATTACK = (
    Flag("epsilon", float, 16.0, "Largest change of a pixel, in pixels of 255.", 0, 255),
    Flag("step_size", float, 1.0, "Of one attack iteration, in pixels of 255.", 1e-6, 255),
    Flag(
        "step_size_rule",
        str,
        "pipeline",
        "pipeline raises the step size to epsilon / num_steps if that is larger; fixed does not.",
        choices=("pipeline", "fixed"),
    ),
    Flag("targeted", bool, True, "Whether the attack aims at a random wrong class."),
    Flag(
        "attack_loss",
        str,
        "cross_entropy",
        "What the attack's gradient is taken of.",
        choices=("cross_entropy", "margin"),
    ),
    Flag("restarts", int, 1, "Attacks per image, of which the strongest counts.", 1),
)

DATA = (
    Flag("dataset", str, "imagenet2012", "Name of the data set."),
    Flag("data_dir", str, None, "Directory of the data set; by default tensorflow-datasets' own."),
    Flag("image_size", int, None, "Height and width in pixels; by default the data set's.", 1),
)

_COMMON = (
    Flag("seed", int, 0, "Keys every random draw.", 0, 2**31 - 1),
    Flag("check", bool, False, "Only check the flags and that the data are there."),
)

TRAIN = (
    *DATA,
    Flag(
        "network",
        str,
        "resnet",
        "resnet, resnet_denoise, resnext_denoise_all, or small_resnet (8 to 64 pixels).",
    ),
    Flag("depth", int, 152, "Of the network: 50 to 638 (resnet), or 6n + 2 (small_resnet).", 1),
    Flag("width", int, None, "Channels of the first stage; by default 64 (resnet) or 16.", 1),
    Flag("blocks", [int], None, "Blocks of each stage, for another split or depth of a resnet.", 1),
    Flag("norm", str, "bn", "Normalization: bn, mbn, gn, ln or in."),
    Flag(
        "affine",
        str,
        "separate",
        "Whether the two branches of a mixture have their own gamma and beta.",
        choices=("separate", "shared"),
    ),
    Flag(
        "init_from",
        str,
        None,
        "Run directory or .keras file whose weights and statistics the training begins with.",
    ),
    Flag(
        "trainable",
        str,
        "all",
        "all, or norm: the normalization layers alone (Section 4.4).",
        choices=("all", "norm"),
    ),
    Flag("adversarial", bool, True, "False trains on clean images alone: 0% adv + 100% clean."),
    Flag("clean_ratio", float, 1.0, "Share of clean images kept in a batch (Section 4.1).", 0, 1),
    Flag("clean_weight", float, None, "alpha of Eq. 1; by default their share.", 0, 1),
    Flag("pairing_weight", float, 0.0, "Weight of adversarial logit pairing; 0.5 for ALP.", 0),
    Flag("running_statistics", int, 0, "Last epochs that train on running statistics.", 0),
    Flag("num_steps", int, 30, "Attack iterations in training.", 0),
    *ATTACK,
    Flag("start_from_clean", float, 0.2, "Share of batches attacked from the image itself.", 0, 1),
    Flag("epochs", int, 110, "Of training.", 1),
    Flag("batch_size", int, 4096, "Clean images of one update, over all workers.", 1),
    Flag("images_per_worker", int, 32, "Images that one batch normalization sees at a time.", 1),
    Flag("steps_per_epoch", int, None, "Updates; by default the images through batch_size.", 1),
    Flag(
        "optimizer",
        str,
        "sgd",
        "sgd, with Nesterov momentum; or rmsprop, that of the first ALP (Appendix A).",
        choices=("sgd", "rmsprop"),
    ),
    Flag("momentum", float, 0.9, "Of either optimizer.", 0, 1),
    Flag("rmsprop_rho", float, 0.9, "Decay of RMSProp's mean of squared gradients.", 0, 1),
    Flag("rmsprop_epsilon", float, 1.0, "Added to that mean, under the root.", 1e-10),
    Flag("learning_rate", float, 0.1, "For every 256 images of batch_size.", 0),
    Flag("warmup_epochs", int, 5, "Epochs from learning_rate to its scaled value.", 0),
    Flag(
        "decay",
        str,
        "step",
        "step divides the learning rate by 10 at decay_epochs; exponential multiplies it by "
        "decay_rate every decay_every epochs.",
        choices=("step", "exponential"),
    ),
    Flag("decay_epochs", [int], (35, 70, 95), "Epochs at which the learning rate falls by 10.", 0),
    Flag("decay_rate", float, 0.94, "Of the exponential decay (Appendix A).", 0, 1),
    Flag("decay_every", int, 2, "Epochs between exponential decays.", 1),
    Flag("weight_decay", float, 1e-4, "On the kernels of convolutions and dense layers.", 0),
    Flag("label_smoothing", float, 0.1, "Of the training loss.", 0, 1),
    Flag(
        "dtype",
        str,
        "float32",
        "Keras's dtype policy.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    ),
    Flag(
        "rematerialize",
        str,
        "none",
        "Computes activations again block by block in place of keeping them: in the update's pass "
        "(step), in the attack's too (all), or not (none).",
        choices=("none", "step", "all"),
    ),
    Flag("image_pairs", int, 4, "Clean and adversarial images shown in TensorBoard.", 0),
    Flag("eval_num_steps", [int], (10,), "Attack iterations of the evaluation in training.", 1),
    Flag("eval_every", int, 1, "Epochs between such evaluations.", 1),
    Flag("strong_eval_num_steps", [int], (100,), "Iterations of the stronger evaluation.", 1),
    Flag("strong_eval_every", int, 10, "Epochs between these, which the last 5 have too.", 1),
    Flag("eval_limit", int, None, "Images of the evaluations in training; by default all.", 1),
    Flag("run_dir", str, None, "Directory of the run; by default runs/, named by its settings."),
    Flag("resume", bool, False, "Continue the run in run_dir from its last checkpoint."),
    Flag("keep_checkpoints", int, 10, "How many of the last checkpoints stay, beside the best.", 1),
    *_COMMON,
)

# Which model a program uses, and what its images are.
_MODEL = (
    Flag("run_dir", str, None, "Directory of a finished or running training."),
    Flag("checkpoint", str, "last", "Of run_dir: last, best, or the number of an epoch."),
    Flag("model", str, None, "A .keras file, in place of run_dir."),
    Flag("value_range", [int], None, "Of the images, for a model without an input contract."),
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
    Flag("images_per_worker", int, 32, "Images attacked at a time.", 1),
    Flag("limit", int, None, "Images to evaluate; by default the whole validation set.", 1),
    Flag("sanity_checks", bool, True, "Whether the evaluation also checks itself."),
    Flag("output", str, None, "JSON file; by default evaluation.json in run_dir."),
    *_COMMON,
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
    Flag("image_size", int, None, "Height and width in pixels, for a model that takes any.", 1),
    Flag("batch_size", int, 32, "Images classified at a time.", 1),
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
    Flag("channels", int, 20, "How many channels the figures show.", 1),
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
