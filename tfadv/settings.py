"""The table of settings: every flag of the programs, its bounds, and what it means for a run.

Flags and their checks, the identity of a run, the mini-batches of `tfadv.inspect`, TensorBoard's
HPARAMS, the report's tables and `tfadv.plan` all derive from it. It stands above the library,
which knows no flags.
"""

import dataclasses
import enum
import math
from pathlib import Path
from typing import Any

from tfadv.tables.attacks import ATTACKS
from tfadv.tables.datasets import ENTRIES
from tfadv.tables.networks import NETWORKS
from tfadv.tables.normalizations import NORMALIZATIONS


class Role(enum.Flag):
    """What a setting of a training means for a run."""

    NONE = 0
    FREE = enum.auto()  # Does not change what is trained, so a resumed run may change it.
    SHOWN = enum.auto()  # A column of TensorBoard's HPARAMS tab.
    FIRST = enum.auto()  # One of its first columns, which the tab shows before others are chosen.
    MINI_BATCH = enum.auto()  # Decides what the mini-batches of `tfadv.inspect` hold.
    # In the paper's tables:
    STRATEGY = enum.auto()  # Part of the name of a training strategy.
    AXIS = enum.auto()  # Varied by a whole table or figure: Figure 7, Tables 4, 5 and 6.
    ATTACK = enum.auto()  # Part of the threat model: results that differ in it are not compared.
    RECIPE = enum.auto()  # Varied by Table 3.


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting, which is one flag.

    Attributes:
        name: The flag's name.
        type: `int`, `float`, `str` or `bool`; `[int]` for a list of integers; `Path` for a string
            that names a file or a directory, where `~` is the home directory.
        default: The value without the flag; None where something else decides.
        help: One sentence, with the unit.
        low, high: Bounds of a number, or of every element of a list.
        choices: The values that a string may have.
        group: The heading in `--help`.
        roles: Its `Role`s.
    """

    name: str
    type: Any
    default: Any
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    group: str = ""
    roles: Role = Role.NONE


Table = tuple[Setting, ...]


def names(table: Table, role: Role) -> tuple[str, ...]:
    """The names of the settings that have a role, in the order of the table."""
    return tuple(setting.name for setting in table if setting.roles & role)


def default(table: Table, name: str) -> Any:
    """The default of a setting."""
    return next(setting.default for setting in table if setting.name == name)


def _group(heading, *settings):
    return tuple(dataclasses.replace(setting, group=heading) for setting in settings)


# Upper bounds that catch typos: no machine has the memory or the time for more.
_EPOCHS = 1_000_000
_STEPS = 1_000_000
_AT_ONCE = 65_536
_IMAGES = 10**9

_FREE, _SHOWN, _MINI_BATCH = Role.FREE, Role.SHOWN, Role.MINI_BATCH

# Each setting is a row: name, type and default; help; bounds, choices and roles.
# fmt: off

_DATA = _group(
    "data",
    Setting("dataset", str, "imagenet2012", f"Data set: {', '.join(ENTRIES)}.",
            roles=_SHOWN | _MINI_BATCH),
    Setting("data_dir", Path, None,
            "Directory of the data set; by default that of tensorflow-datasets.",
            roles=_FREE | _MINI_BATCH),
    Setting("image_size", int, None,
            "Height and width of the images, in pixels; by default those of the data set.",
            1, 4096, roles=_MINI_BATCH),
)

_NETWORK = _group(
    "network",
    Setting("network", str, "resnet",
            f"Network: {', '.join(NETWORKS)} (small_resnet is for images of 8 to 64 pixels).",
            roles=_SHOWN),
    Setting("depth", int, 152,
            "Depth of the network: 50 to 638 for a resnet, 6n + 2 for a small_resnet.",
            1, 10_000, roles=_SHOWN | Role.FIRST | Role.AXIS),
    Setting("width", int, None,
            "Channels of the first stage; by default 64 for a resnet and 16 for a small_resnet.",
            1, 4096),
    Setting("blocks", [int], None,
            "Blocks of each stage, for a resnet of another depth or another split into stages.",
            1, 1000, roles=Role.AXIS),
    Setting("norm", str, "bn",
            f"Normalization: {', '.join(NORMALIZATIONS)} (mbn is mixture batch normalization).",
            roles=_SHOWN | Role.FIRST | Role.STRATEGY),
    Setting("affine", str, "separate",
            "Whether the two branches of a mixture have separate gammas and betas, or share one.",
            choices=("separate", "shared"), roles=_SHOWN | Role.STRATEGY),
    Setting("statistics", str, "separate",
            "Whether the two branches of a mixture have separate statistics, or share them.",
            choices=("separate", "shared"), roles=Role.STRATEGY),
    Setting("init_from", Path, None,
            "Run directory or .keras file whose weights and statistics the training starts from.",
            roles=Role.STRATEGY),
    Setting("trainable", str, "all",
            "Weights to train: all, or norm, those of the normalization layers alone (Section "
            "4.4).",
            choices=("all", "norm"), roles=_SHOWN | Role.STRATEGY),
    Setting("dtype", str, "float32",
            "Keras dtype policy of the network.",
            choices=("float32", "mixed_bfloat16", "mixed_float16")),
)

_ADVERSARIAL = _group(
    "adversarial training",
    Setting("adversarial", bool, True,
            "Whether to train adversarially; false trains on clean images alone (0% adv + 100% "
            "clean).",
            roles=_SHOWN | _MINI_BATCH | Role.STRATEGY),
    Setting("clean_ratio", float, 1.0,
            "Share of the clean images that are kept in each mini-batch (Section 4.1).",
            0, 1, roles=_SHOWN | Role.FIRST | _MINI_BATCH | Role.STRATEGY),
    Setting("clean_weight", float, None,
            "Weight of the clean loss, alpha of Eq. 1; by default the clean images' share of the "
            "mini-batch.",
            0, 1, roles=Role.STRATEGY),
    Setting("pairing_weight", float, 0.0,
            "Weight of adversarial logit pairing; the paper's ALP has 0.5.",
            0, 1000, roles=_SHOWN | Role.STRATEGY),
    Setting("batch_statistics", str, "together",
            "Whether one batch normalization takes the statistics of adversarial and clean images "
            "together, as in the paper, or apart, as with two calls of the network.",
            choices=("together", "apart"), roles=_SHOWN | Role.STRATEGY),
    Setting("running_statistics", int, 0,
            "Number of last epochs that train on the running statistics of batch normalization "
            "(Section 4.3).",
            0, _EPOCHS, roles=_SHOWN | Role.STRATEGY),
)

_ATTACK, *_STEPS_IN_TRAINING = _group(
    "attack",
    Setting("attack", str, "pgd",
            "Attack that makes the adversarial images; it ignores settings that it does not have.",
            choices=tuple(ATTACKS), roles=_SHOWN | _MINI_BATCH | Role.ATTACK),
    Setting("num_steps", int, 30,
            "Number of attack iterations in training.",
            0, _STEPS, roles=_SHOWN | Role.FIRST | _MINI_BATCH | Role.AXIS),
    Setting("start_from_clean", float, 0.2,
            "Share of the batches that are attacked from the images themselves, without noise.",
            0, 1, roles=_SHOWN | _MINI_BATCH | Role.ATTACK | Role.RECIPE),
)

# The values are the paper's (Section 3).
_ATTACK_SETTINGS = _group(
    "attack",
    Setting("epsilon", float, 16.0,
            "Largest change of a pixel, in pixels of 255.",
            0, 255, roles=_SHOWN | Role.FIRST | _MINI_BATCH | Role.ATTACK),
    Setting("attack_norm", str, "linf",
            "Norm that epsilon bounds. With l2, epsilon and step_size are lengths of the whole "
            "change, for images from 0 to 1, and both must be given.",
            choices=("linf", "l2"), roles=_MINI_BATCH | Role.ATTACK),
    Setting("step_size", float, 1.0,
            "Size of one attack iteration, in pixels of 255.",
            1e-6, 255, roles=_SHOWN | _MINI_BATCH | Role.AXIS),
    Setting("step_size_rule", str, "pipeline",
            "How step_size is used: pipeline raises it to epsilon / num_steps where that is "
            "larger, fixed takes it as it is.",
            choices=("pipeline", "fixed"), roles=_MINI_BATCH),
    Setting("clip_start", bool, False,
            "Whether a random start is clipped to the pixel range before the first gradient, "
            "which the pipeline does not do; clipping makes an attack of few steps stronger.",
            roles=_MINI_BATCH | Role.ATTACK),
    Setting("targeted", bool, True,
            "Whether the attack aims at a random wrong class, or else away from the true class.",
            roles=_SHOWN | _MINI_BATCH | Role.ATTACK),
    Setting("attack_loss", str, "cross_entropy",
            "Loss that the attack climbs or descends.",
            choices=("cross_entropy", "margin"), roles=_MINI_BATCH | Role.ATTACK),
    Setting("restarts", int, 1,
            "Number of attacks on each image; the strongest counts.",
            1, 10_000, roles=_MINI_BATCH | Role.ATTACK),
    Setting("attack_precision", str, "float32",
            "Precision of the network while it is attacked; images and perturbations stay "
            "float32. 16 bits are faster where the processor has instructions for them.",
            choices=("float32", "bfloat16", "float16"), roles=_MINI_BATCH | Role.ATTACK),
    Setting("attack_xla", str, "auto",
            "Whether XLA compiles the attack; auto does so on GPUs.",
            choices=("auto", "on", "off"), roles=_FREE | _MINI_BATCH),
)

[_IMAGES_PER_WORKER] = _group(
    "optimization",
    Setting("images_per_worker", int, 32,
            "Number of clean images that one batch normalization sees at a time.",
            1, _AT_ONCE, roles=_SHOWN | _MINI_BATCH | Role.RECIPE),
)

_OPTIMIZATION = _group(
    "optimization",
    Setting("epochs", int, 110,
            "Number of training epochs.",
            1, _EPOCHS, roles=_SHOWN | Role.RECIPE),
    Setting("batch_size", int, 4096,
            "Number of clean images in one update, over all workers.",
            1, 2**24, roles=_SHOWN | Role.AXIS),
    _IMAGES_PER_WORKER,
    Setting("steps_per_epoch", int, None,
            "Number of updates in an epoch; by default the number of images divided by "
            "batch_size.",
            1, 10**9),
    Setting("optimizer", str, "sgd",
            "Optimizer: sgd, with Nesterov momentum, or rmsprop, as in the first ALP (Appendix "
            "A).",
            choices=("sgd", "rmsprop"), roles=_SHOWN | Role.RECIPE),
    Setting("momentum", float, 0.9, "Momentum of SGD and of RMSProp.", 0, 1, roles=Role.RECIPE),
    Setting("rmsprop_rho", float, 0.9,
            "Decay of RMSProp's mean of squared gradients.",
            0, 1, roles=Role.RECIPE),
    Setting("rmsprop_epsilon", float, 1.0,
            "Constant that RMSProp adds to the mean of squared gradients, under the square root.",
            1e-10, 1e6, roles=Role.RECIPE),
    Setting("learning_rate", float, 0.1,
            "Learning rate for each 256 images of batch_size.",
            0, 1000, roles=_SHOWN | Role.RECIPE),
    Setting("warmup_epochs", int, 5,
            "Number of epochs in which the rate rises from learning_rate to its scaled value, "
            "for a batch_size of more than 256.",
            0, _EPOCHS, roles=Role.RECIPE),
    Setting("decay", str, "step",
            "How the learning rate falls: step divides it by 10 at decay_epochs, exponential "
            "multiplies it by decay_rate every decay_every epochs.",
            choices=("step", "exponential"), roles=_SHOWN | Role.RECIPE),
    Setting("decay_epochs", [int], (35, 70, 95),
            "Epochs at which the learning rate is divided by 10.",
            0, _EPOCHS, roles=Role.RECIPE),
    Setting("decay_rate", float, 0.94,
            "Factor of the exponential decay (Appendix A).",
            0, 1, roles=Role.RECIPE),
    Setting("decay_every", int, 2,
            "Number of epochs between two exponential decays.",
            1, _EPOCHS, roles=Role.RECIPE),
    Setting("weight_decay", float, 1e-4,
            "Weight decay of the kernels of convolutions and dense layers.",
            0, 1000, roles=_SHOWN),
    Setting("label_smoothing", float, 0.1, "Label smoothing of the training loss.", 0, 1),
)

_EVALUATION_IN_TRAINING = _group(
    "evaluation",
    Setting("eval_num_steps", [int], (10,),
            "Attack iterations of the evaluation in training, a list; empty for no evaluation.",
            1, _STEPS, roles=_FREE),
    Setting("eval_every", int, 1,
            "Number of epochs from one evaluation to the next.",
            1, _EPOCHS, roles=_FREE),
    Setting("strong_eval_num_steps", [int], (100,),
            "Attack iterations of the stronger evaluation in training, a list; empty for none.",
            1, _STEPS, roles=_FREE),
    Setting("strong_eval_every", int, 10,
            "Number of epochs from one stronger evaluation to the next; each of the last 5 epochs "
            "ends with one too.",
            1, _EPOCHS, roles=_FREE),
    Setting("eval_limit", int, None,
            "Number of images in the evaluations in training; by default all.",
            1, _IMAGES, roles=_FREE),
    Setting("image_pairs", int, 4,
            "Number of pairs of clean and adversarial images that TensorBoard shows.",
            0, 64, roles=_FREE),
)

[_STALL_SECONDS] = _group(
    "machine",
    Setting("stall_seconds", float, 1800.0,
            "Seconds that a worker may hang before the job is aborted and the worker is named; 0 "
            "never aborts. It must be longer than the longest step with its compilation.",
            0, 1_000_000, roles=_FREE),
)

_RUN = _group(
    "run",
    Setting("run_dir", Path, None,
            "Directory of the run; by default one below runs/, named after its settings.",
            roles=_FREE),
    Setting("resume", bool, False,
            "Whether to continue the run in run_dir from its last checkpoint.",
            roles=_FREE),
    Setting("keep_checkpoints", int, 10,
            "Number of checkpoints of the latest epochs to keep, besides the best one.",
            1, _EPOCHS, roles=_FREE),
    Setting("checkpoint_minutes", float, 30.0,
            "Minutes between two checkpoints within an epoch; 0 writes none there.",
            0, 1_000_000, roles=_FREE),
)

_SEED, _CHECK = _group(
    "run",
    Setting("seed", int, 0,
            "Seed of every random draw.",
            0, 2**31 - 1, roles=_SHOWN),
    Setting("check", bool, False,
            "Whether to stop after checking the flags and that the data exist.",
            roles=_FREE),
)

_MACHINE = _group(
    "machine",
    Setting("attack_parts", int, None,
            "Number of accumulated steps whose images are attacked in one call, with the draws of "
            "separate calls; by default 2 on GPUs where that takes no more memory, else 1.",
            1, _AT_ONCE, roles=_FREE),
    Setting("rematerialize", str, "none",
            "Where activations are recomputed block by block instead of being kept in memory: in "
            "the pass of the update (step), in the attack too (all), or nowhere (none).",
            choices=("none", "step", "all"), roles=_FREE),
    Setting("step_xla", str, "auto",
            "Whether XLA compiles the forward and backward pass of the update; auto does so on "
            "GPUs.",
            choices=("auto", "on", "off"), roles=_FREE),
    Setting("gradient_compression", str, "none",
            "Compression of the gradients between workers: fp16 sends half the bytes, rounded.",
            choices=("none", "fp16")),
    # Workers count on their own, since sharing a count would make them wait for each other. The
    # default is 0, since somebody should look at a data set with broken images.
    Setting("max_bad_images", int, 0,
            "Number of unreadable training images that each worker may replace in an epoch, "
            "naming them; one more ends the run. Evaluations replace none.",
            0, _IMAGES, roles=_FREE),
    Setting("max_bad_steps", int, 0,
            "Number of updates with a non-finite loss or gradient that may be skipped; one more "
            "ends the run.",
            0, _STEPS, roles=_FREE),
    _STALL_SECONDS,
)

TRAIN = (
    *_DATA,
    *_NETWORK,
    *_ADVERSARIAL,
    _ATTACK,
    *_STEPS_IN_TRAINING,
    *_ATTACK_SETTINGS,
    *_OPTIMIZATION,
    *_EVALUATION_IN_TRAINING,
    *_RUN,
    *_MACHINE,
    _SEED,
    _CHECK,
)


def _optional(setting):
    """The same setting, by default that of the run."""
    return dataclasses.replace(setting, default=None)


_MODEL = _group(
    "model",
    Setting("run_dir", Path, None, "Directory of a finished or running training."),
    Setting("checkpoint", str, "last",
            "Checkpoint of run_dir: last, best, or the number of an epoch."),
    Setting("model", Path, None, "A .keras file, instead of run_dir."),
    Setting("value_range", [int], None,
            "Lowest and highest pixel value that a model without an input contract takes.",
            -65_536, 65_536),
)

EVALUATE = (
    *_MODEL,
    *map(_optional, _DATA),
    _ATTACK,
    *_group(
        "attack",
        Setting("num_steps", [int], (10, 20, 100, 500, 2000),
                "Attack iterations, a list; empty for clean images alone. The default stands for "
                "100 with the attacks apgd_... and fab_....",
                1, _STEPS),
        dataclasses.replace(
            _ATTACK_SETTINGS[0],
            default=None,
            help="Largest change of a pixel, in pixels of 255; by default that of the run's "
            "training, or 16.",
        ),
        dataclasses.replace(
            _ATTACK_SETTINGS[1],
            default=None,
            help="Norm that epsilon bounds; by default that of the run's training, or linf. With "
            "l2, epsilon and step_size are lengths of the whole change, for images from 0 to 1. "
            "With another norm than in training, epsilon must be given.",
        ),
        *_ATTACK_SETTINGS[2:],
        Setting("start_from_clean", float, 0.0,
                "Share of the images that are attacked from the image itself, without noise.",
                0, 1, roles=Role.ATTACK),
        Setting("domain", str, "adv",
                "Branch of a mixture that is attacked and evaluated.",
                choices=("adv", "clean", "both")),
    ),
    *_group(
        "evaluation",
        dataclasses.replace(
            _IMAGES_PER_WORKER, help="Number of images that a worker attacks at a time."
        ),
        Setting("limit", int, None,
                "Number of images to evaluate; by default the whole validation set.",
                1, _IMAGES),
        Setting("image_names", Path, None,
                "File with the names of the validation images of imagenet2012 to evaluate, one a "
                "line, as RobustBench's list; what its model claims need is then written as well."),
        Setting("validation_resize", str, "bicubic",
                "How the validation images of imagenet2012 are resized: bicubic, as in the "
                "pipeline, or bilinear with a low-pass filter, as in RobustBench.",
                choices=("bicubic", "bilinear")),
        Setting("sanity_checks", bool, True, "Whether the evaluation also checks itself."),
        Setting("output", Path, None, "JSON file; by default evaluation.json in run_dir."),
    ),
    _STALL_SECONDS,
    _SEED,
    _CHECK,
)

PREDICT = (
    *_MODEL,
    *_group(
        "prediction",
        Setting("domain", str, "adv",
                "Branch of a mixture that classifies.",
                choices=("adv", "clean")),
        Setting("class_names", bool, None,
                "Whether to write the name of the class too, after its number; by default where "
                "the data set is here and has names."),
        Setting("probability", bool, False, "Whether to write the probability of the class too."),
        Setting("dataset", str, None,
                "Data set whose class names are written; by default that of run_dir. One of "
                f"{', '.join(ENTRIES)}."),
        Setting("data_dir", Path, None, "Directory of the data set."),
        Setting("image_size", int, None,
                "Height and width in pixels, for a model that takes images of any size.",
                1, 4096),
        Setting("batch_size", int, 32, "Number of images classified at a time.", 1, _AT_ONCE),
        Setting("output", Path, None, "File for the lines; by default they are printed."),
    ),
    _CHECK,
)

INSPECT = (
    *_MODEL,
    *_group(
        "figures",
        Setting("layer", str, None,
                "Layer that the figures show; by default the middle one of res3."),
        Setting("channels", int, 20, "Number of channels that the figures show.", 1, 1000),
        Setting("domain", str, "adv",
                "Branch of a mixture that Figure 6 shows.",
                choices=("adv", "clean")),
        Setting("figure6", bool, True,
                "Whether to measure batch statistics for Figure 6, on training data; with model, "
                "give dataset too."),
        Setting("output", Path, None,
                "Directory for everything; by default inspection in run_dir."),
    ),
    *(_optional(setting) for setting in TRAIN if setting.roles & Role.MINI_BATCH),
    dataclasses.replace(_SEED, help="Seed that draws the channels and the mini-batches."),
    _CHECK,
)

REPORT = _group(
    "report",
    Setting("output", Path, "report", "Directory for the report, its tables and its figures."),
)

PLAN = (
    *(setting for setting in TRAIN if setting.name != "run_dir"),
    *_group(
        "plan",
        Setting("run_dir", Path, None,
                "Directory of a training to take the settings from; other flags override them. "
                "(In a flagfile it is where a training writes, and is ignored.)"),
        Setting("workers", int, 1,
                "Number of devices that the training runs on, with one worker each.",
                1, 1_000_000),
        Setting("device", str, "h100",
                "Kind of device: v100, a100, h100, h200, t4 or cpu (one core); here measures the "
                "network on this machine."),
        Setting("efficiency", float, None,
                "Share of the device's peak that is reached; by default that of the table of "
                "devices.",
                1e-6, 1),
        Setting("bandwidth", float, 5.0,
                "Gigabytes per second of the slowest connection between workers. (5 is 50 Gbit/s "
                "Ethernet at four fifths, as between the machines of the paper's time.)",
                1e-6, 1e6),
        Setting("latency", float, 20.0,
                "Microseconds of one step of a ring all-reduce; with copying, of a small message.",
                0, 1e9),
        Setting("copying", float, None,
                "Gigabytes per second that a worker's cores copy and add for an all-reduce, for "
                "workers that communicate through Gloo, from CPU to CPU; without the kernel's "
                "copies, which happen while the network sends.",
                1e-6, 1e6),
        Setting("jitter", float, 0.02,
                "Standard deviation of a worker's time per update, relative to its mean.",
                0, 1),
    ),
)
