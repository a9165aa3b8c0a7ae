"""Every setting of the programs, once: its flag, its rule, and what it means for a run.

Flags and their checks, what identifies a run, the mini-batches of `tfadv.inspect`, TensorBoard's
HPARAMS, the columns of a report and `tfadv.plan` all read these tables.
"""

import dataclasses
import enum
import math

from tfadv.tables.attacks import ATTACKS


class Role(enum.Flag):
    """What a setting of a training means for a run."""

    NONE = 0
    FREE = enum.auto()  # May differ when a run is continued: it does not change what is trained.
    SHOWN = enum.auto()  # A column of TensorBoard's HPARAMS tab.
    MINI_BATCH = enum.auto()  # Decides what the mini-batches of `tfadv.inspect` hold.


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting, which is one flag.

    Attributes:
        name: As on the command line.
        type: `int`, `float`, `str`, `bool`, or `[int]` for a list of integers.
        default: Its value if it is not given; None where something else decides.
        help: What it is, in a sentence with its unit.
        low, high: The least and the greatest value, of every element of a list; every number must
            be finite.
        choices: The values that a string may have.
        group: The heading that `--help` shows it under.
        roles: Its `Role`s.
    """

    name: str
    type: object
    default: object
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple = ()
    group: str = ""
    roles: Role = Role.NONE


def names(table, role):
    """The names of a table's settings that have a role, in the order of the table."""
    return tuple(setting.name for setting in table if setting.roles & role)


def default(table, name):
    """The default of a table's setting."""
    return next(setting.default for setting in table if setting.name == name)


def _group(heading, *settings):
    return tuple(dataclasses.replace(setting, group=heading) for setting in settings)


# Upper bounds that catch typos: no machine has the memory or the time for more.
_EPOCHS = 1_000_000
_STEPS = 1_000_000
_AT_ONCE = 65_536
_IMAGES = 10**9

_FREE, _SHOWN, _MINI_BATCH = Role.FREE, Role.SHOWN, Role.MINI_BATCH

_DATA = _group(
    "data",
    Setting(
        "dataset",
        str,
        "imagenet2012",
        "Name of the data set.",
        roles=_SHOWN | _MINI_BATCH,
    ),
    Setting(
        "data_dir",
        str,
        None,
        "Directory of the data set; by default that of tensorflow-datasets.",
        roles=_FREE | _MINI_BATCH,
    ),
    Setting(
        "image_size",
        int,
        None,
        "Height and width of the images, in pixels; by default those of the data set.",
        1,
        4096,
        roles=_MINI_BATCH,
    ),
)

_NETWORK = _group(
    "network",
    Setting(
        "network",
        str,
        "resnet",
        "The network: resnet, resnet_denoise, resnext_denoise_all, or small_resnet (for images of "
        "8 to 64 pixels).",
        roles=_SHOWN,
    ),
    Setting(
        "depth",
        int,
        152,
        "Depth of the network: 50 to 638 for a resnet, 6n + 2 for a small_resnet.",
        1,
        10_000,
        roles=_SHOWN,
    ),
    Setting(
        "width",
        int,
        None,
        "Channels of the first stage; by default 64 for a resnet and 16 for a small_resnet.",
        1,
        4096,
    ),
    Setting(
        "blocks",
        [int],
        None,
        "Blocks of each stage, for a resnet of another depth or with another split of it.",
        1,
        1000,
    ),
    Setting(
        "norm",
        str,
        "bn",
        "Normalization: bn, mbn (mixture), gn, ln or in.",
        roles=_SHOWN,
    ),
    Setting(
        "affine",
        str,
        "separate",
        "Whether the two branches of a mixture have separate gammas and betas, or share one.",
        choices=("separate", "shared"),
        roles=_SHOWN,
    ),
    Setting(
        "init_from",
        str,
        None,
        "Run directory or .keras file from which the training takes its first weights and "
        "statistics.",
    ),
    Setting(
        "trainable",
        str,
        "all",
        "What is trained: all, or norm, the normalization layers alone (Section 4.4).",
        choices=("all", "norm"),
        roles=_SHOWN,
    ),
    Setting(
        "dtype",
        str,
        "float32",
        "Keras dtype policy of the network.",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    ),
)

_ADVERSARIAL = _group(
    "adversarial training",
    Setting(
        "adversarial",
        bool,
        True,
        "Whether to train adversarially; false trains on clean images alone (0% adv + 100% clean).",
        roles=_SHOWN | _MINI_BATCH,
    ),
    Setting(
        "clean_ratio",
        float,
        1.0,
        "Share of the clean images that stay in each mini-batch (Section 4.1).",
        0,
        1,
        roles=_SHOWN | _MINI_BATCH,
    ),
    Setting(
        "clean_weight",
        float,
        None,
        "Weight of the clean loss, alpha of Eq. 1; by default the clean images' share of the "
        "mini-batch.",
        0,
        1,
    ),
    Setting(
        "pairing_weight",
        float,
        0.0,
        "Weight of adversarial logit pairing; the paper's ALP has 0.5.",
        0,
        1000,
        roles=_SHOWN,
    ),
    Setting(
        "running_statistics",
        int,
        0,
        "Number of last epochs that train on the running statistics of batch normalization "
        "(Section 4.3).",
        0,
        _EPOCHS,
        roles=_SHOWN,
    ),
)

_ATTACK = Setting(
    "attack",
    str,
    "pgd",
    "Attack that makes the adversarial images; it ignores settings that it does not have.",
    choices=tuple(ATTACKS),
    group="attack",
    roles=_SHOWN | _MINI_BATCH,
)

_STEPS_IN_TRAINING = _group(
    "attack",
    Setting(
        "num_steps",
        int,
        30,
        "Number of attack iterations in training.",
        0,
        _STEPS,
        roles=_SHOWN | _MINI_BATCH,
    ),
    Setting(
        "start_from_clean",
        float,
        0.2,
        "Share of the batches that are attacked from the images themselves, without noise.",
        0,
        1,
        roles=_SHOWN | _MINI_BATCH,
    ),
)

# The values are the paper's (Section 3).
_ATTACK_SETTINGS = _group(
    "attack",
    Setting(
        "epsilon",
        float,
        16.0,
        "Largest change of a pixel, in pixels of 255.",
        0,
        255,
        roles=_SHOWN | _MINI_BATCH,
    ),
    Setting(
        "step_size",
        float,
        1.0,
        "Size of one attack iteration, in pixels of 255.",
        1e-6,
        255,
        roles=_SHOWN | _MINI_BATCH,
    ),
    Setting(
        "step_size_rule",
        str,
        "pipeline",
        "What becomes of step_size: pipeline raises it to epsilon / num_steps if that is larger, "
        "fixed takes it as it is.",
        choices=("pipeline", "fixed"),
        roles=_MINI_BATCH,
    ),
    Setting(
        "clip_start",
        bool,
        False,
        "Whether a random start is clipped to the pixel range before the first gradient; the "
        "pipeline does not, and pays for it with few steps.",
        roles=_MINI_BATCH,
    ),
    Setting(
        "targeted",
        bool,
        True,
        "Whether the attack aims at a wrong class drawn at random, or away from the true one.",
        roles=_SHOWN | _MINI_BATCH,
    ),
    Setting(
        "attack_loss",
        str,
        "cross_entropy",
        "Loss that the attack follows.",
        choices=("cross_entropy", "margin"),
        roles=_MINI_BATCH,
    ),
    Setting(
        "restarts",
        int,
        1,
        "Number of attacks on each image, of which the strongest counts.",
        1,
        10_000,
        roles=_MINI_BATCH,
    ),
    Setting(
        "attack_precision",
        str,
        "float32",
        "Precision in which the network computes while it is attacked; images and their ball stay "
        "float32. 16 bits pay where the processor has instructions for them.",
        choices=("float32", "bfloat16", "float16"),
        roles=_MINI_BATCH,
    ),
    Setting(
        "attack_xla",
        str,
        "auto",
        "Whether XLA compiles the attack; auto does so on GPUs.",
        choices=("auto", "on", "off"),
        roles=_FREE | _MINI_BATCH,
    ),
)

_IMAGES_PER_WORKER = Setting(
    "images_per_worker",
    int,
    32,
    "Number of clean images that one batch normalization sees at a time.",
    1,
    _AT_ONCE,
    group="optimization",
    roles=_SHOWN | _MINI_BATCH,
)

_OPTIMIZATION = _group(
    "optimization",
    Setting(
        "epochs",
        int,
        110,
        "Number of training epochs.",
        1,
        _EPOCHS,
        roles=_SHOWN,
    ),
    Setting(
        "batch_size",
        int,
        4096,
        "Number of clean images in one update, over all workers.",
        1,
        2**24,
        roles=_SHOWN,
    ),
    _IMAGES_PER_WORKER,
    Setting(
        "steps_per_epoch",
        int,
        None,
        "Number of updates in an epoch; by default the number of images divided by batch_size.",
        1,
        10**9,
    ),
    Setting(
        "optimizer",
        str,
        "sgd",
        "Optimizer: sgd, with Nesterov momentum, or rmsprop, as in the first ALP (Appendix A).",
        choices=("sgd", "rmsprop"),
        roles=_SHOWN,
    ),
    Setting("momentum", float, 0.9, "Momentum of SGD and of RMSProp.", 0, 1),
    Setting(
        "rmsprop_rho",
        float,
        0.9,
        "Decay of RMSProp's mean of squared gradients.",
        0,
        1,
    ),
    Setting(
        "rmsprop_epsilon",
        float,
        1.0,
        "Constant that RMSProp adds to that mean, under the root.",
        1e-10,
        1e6,
    ),
    Setting(
        "learning_rate",
        float,
        0.1,
        "Learning rate for each 256 images of batch_size.",
        0,
        1000,
        roles=_SHOWN,
    ),
    Setting(
        "warmup_epochs",
        int,
        5,
        "Number of epochs in which the rate rises from learning_rate to its scaled value.",
        0,
        _EPOCHS,
    ),
    Setting(
        "decay",
        str,
        "step",
        "How the learning rate falls: step divides it by 10 at decay_epochs, exponential "
        "multiplies it by decay_rate every decay_every epochs.",
        choices=("step", "exponential"),
        roles=_SHOWN,
    ),
    Setting(
        "decay_epochs",
        [int],
        (35, 70, 95),
        "Epochs at which the learning rate is divided by 10.",
        0,
        _EPOCHS,
    ),
    Setting(
        "decay_rate",
        float,
        0.94,
        "Factor of the exponential decay (Appendix A).",
        0,
        1,
    ),
    Setting(
        "decay_every",
        int,
        2,
        "Number of epochs between two exponential decays.",
        1,
        _EPOCHS,
    ),
    Setting(
        "weight_decay",
        float,
        1e-4,
        "Weight decay of the kernels of convolutions and dense layers.",
        0,
        1000,
        roles=_SHOWN,
    ),
    Setting("label_smoothing", float, 0.1, "Label smoothing of the training loss.", 0, 1),
)

_EVALUATION_IN_TRAINING = _group(
    "evaluation",
    Setting(
        "eval_num_steps",
        [int],
        (10,),
        "Attack iterations of the evaluation in training, a list; empty for no evaluation.",
        1,
        _STEPS,
        roles=_FREE,
    ),
    Setting(
        "eval_every",
        int,
        1,
        "Number of epochs from one such evaluation to the next.",
        1,
        _EPOCHS,
        roles=_FREE,
    ),
    Setting(
        "strong_eval_num_steps",
        [int],
        (100,),
        "Attack iterations of the stronger evaluation, a list; empty for none.",
        1,
        _STEPS,
        roles=_FREE,
    ),
    Setting(
        "strong_eval_every",
        int,
        10,
        "Number of epochs from one stronger evaluation to the next; each of the last 5 epochs has "
        "one too.",
        1,
        _EPOCHS,
        roles=_FREE,
    ),
    Setting(
        "eval_limit",
        int,
        None,
        "Number of images in the evaluations in training; by default all.",
        1,
        _IMAGES,
        roles=_FREE,
    ),
    Setting(
        "image_pairs",
        int,
        4,
        "Number of pairs of clean and adversarial images that TensorBoard shows.",
        0,
        64,
        roles=_FREE,
    ),
)

_STALL_SECONDS = Setting(
    "stall_seconds",
    float,
    1800.0,
    "Seconds without progress of any worker after which the job is aborted and the worker that "
    "hangs is named; 0 never aborts. It must be longer than the longest step with its compilation.",
    0,
    1_000_000,
    group="machine",
    roles=_FREE,
)

_RUN = _group(
    "run",
    Setting(
        "run_dir",
        str,
        None,
        "Directory of the run; by default one below runs/ that its settings name.",
        roles=_FREE,
    ),
    Setting(
        "resume",
        bool,
        False,
        "Whether to continue the run in run_dir from its last checkpoint.",
        roles=_FREE,
    ),
    Setting(
        "keep_checkpoints",
        int,
        10,
        "Number of checkpoints of last epochs that are kept, beside the best.",
        1,
        _EPOCHS,
        roles=_FREE,
    ),
    Setting(
        "checkpoint_minutes",
        float,
        30.0,
        "Minutes between two checkpoints within an epoch; 0 writes none there.",
        0,
        1_000_000,
        roles=_FREE,
    ),
)

_SEED = Setting(
    "seed", int, 0, "Seed of every random draw.", 0, 2**31 - 1, group="run", roles=_SHOWN
)
_CHECK = Setting(
    "check",
    bool,
    False,
    "Whether to stop after checking the flags and that the data are there.",
    group="run",
    roles=_FREE,
)

_MACHINE = _group(
    "machine",
    Setting(
        "rematerialize",
        str,
        "none",
        "Where activations are computed again, block by block, in place of being kept: in the "
        "update's pass (step), in the attack too (all), or nowhere (none).",
        choices=("none", "step", "all"),
        roles=_FREE,
    ),
    Setting(
        "gradient_compression",
        str,
        "none",
        "Compression of the gradients between workers: fp16 sends half the bytes, rounded.",
        choices=("none", "fp16"),
    ),
    # Each worker has its own count, since none knows what the others meet without waiting for
    # them. The default is 0, since a data set with broken images should be looked at.
    Setting(
        "max_bad_images",
        int,
        0,
        "Number of unreadable training images that each worker may replace in an epoch, naming "
        "them; one more ends the run. Evaluations replace none.",
        0,
        _IMAGES,
        roles=_FREE,
    ),
    Setting(
        "max_bad_steps",
        int,
        0,
        "Number of updates with a loss or gradient that is not finite that may be skipped; one "
        "more ends the run.",
        0,
        _STEPS,
        roles=_FREE,
    ),
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
    """The same setting where a run of `tfadv.train`, or another default, decides its value."""
    return dataclasses.replace(setting, default=None)


_MODEL = _group(
    "model",
    Setting("run_dir", str, None, "Directory of a finished or running training."),
    Setting(
        "checkpoint",
        str,
        "last",
        "Checkpoint of run_dir: last, best, or the number of an epoch.",
    ),
    Setting("model", str, None, "A .keras file, in place of run_dir."),
    Setting(
        "value_range",
        [int],
        None,
        "Lowest and highest pixel value that a model without an input contract takes.",
        -65_536,
        65_536,
    ),
)

EVALUATE = (
    *_MODEL,
    *map(_optional, _DATA),
    _ATTACK,
    *_group(
        "attack",
        Setting(
            "num_steps",
            [int],
            (10, 20, 100, 500, 2000),
            "Attack iterations, a list; empty for clean images alone.",
            1,
            _STEPS,
        ),
        dataclasses.replace(
            _ATTACK_SETTINGS[0],
            default=None,
            help="Largest change of a pixel, in pixels of 255; by default that of the run's "
            "training, or 16.",
        ),
        *_ATTACK_SETTINGS[1:],
        Setting(
            "start_from_clean",
            float,
            0.0,
            "Share of the images that are attacked from the image itself, without noise.",
            0,
            1,
        ),
        Setting(
            "domain",
            str,
            "adv",
            "Branch of a mixture that is attacked and evaluated.",
            choices=("adv", "clean", "both"),
        ),
    ),
    *_group(
        "evaluation",
        dataclasses.replace(
            _IMAGES_PER_WORKER, help="Number of images that a worker attacks at a time."
        ),
        Setting(
            "limit",
            int,
            None,
            "Number of images to evaluate; by default the whole validation set.",
            1,
            _IMAGES,
        ),
        Setting("sanity_checks", bool, True, "Whether the evaluation also checks itself."),
        Setting("output", str, None, "JSON file; by default evaluation.json in run_dir."),
    ),
    _STALL_SECONDS,
    _SEED,
    _CHECK,
)

PREDICT = (
    *_MODEL,
    *_group(
        "prediction",
        Setting(
            "domain",
            str,
            "adv",
            "Branch of a mixture that classifies.",
            choices=("adv", "clean"),
        ),
        Setting("class_names", bool, False, "Whether to write the name of the class too."),
        Setting("probability", bool, False, "Whether to write the probability of the class too."),
        Setting(
            "dataset",
            str,
            None,
            "Data set whose class names are written; by default that of run_dir.",
        ),
        Setting("data_dir", str, None, "Directory of the data set."),
        Setting(
            "image_size",
            int,
            None,
            "Height and width in pixels, for a model that takes images of any size.",
            1,
            4096,
        ),
        Setting("batch_size", int, 32, "Number of images classified at a time.", 1, _AT_ONCE),
        Setting("output", str, None, "File for the lines; by default they are printed."),
    ),
    _CHECK,
)

INSPECT = (
    *_MODEL,
    *_group(
        "figures",
        Setting(
            "layer", str, None, "Layer that the figures show; by default the middle one of res3."
        ),
        Setting("channels", int, 20, "Number of channels that the figures show.", 1, 1000),
        Setting(
            "domain",
            str,
            "adv",
            "Branch of a mixture that Figure 6 shows.",
            choices=("adv", "clean"),
        ),
        Setting(
            "figure6",
            bool,
            True,
            "Whether to measure batch statistics, which needs training data: beside model, give "
            "dataset.",
        ),
        Setting("output", str, None, "Directory for everything; by default inspection in run_dir."),
    ),
    *(_optional(setting) for setting in TRAIN if setting.roles & Role.MINI_BATCH),
    dataclasses.replace(_SEED, help="Seed of the channels and the mini-batches that are drawn."),
    _CHECK,
)

REPORT = _group(
    "report",
    Setting("output", str, "report", "Directory for the report, its tables and its figures."),
)

PLAN = (
    *(setting for setting in TRAIN if setting.name != "run_dir"),
    *_group(
        "plan",
        Setting(
            "run_dir",
            str,
            None,
            "Directory of a training whose settings are planned for; the other flags win over "
            "them. (In a flagfile it says where a training writes, and is not read.)",
        ),
        Setting(
            "workers",
            int,
            1,
            "Number of devices that the training is planned for, with a worker on each.",
            1,
            1_000_000,
        ),
        Setting(
            "device",
            str,
            "h100",
            "Kind of device: v100, a100, h100, h200, t4 or cpu (one core); here measures what this "
            "machine reaches with the network itself.",
        ),
        Setting(
            "efficiency",
            float,
            None,
            "Share of the device's peak that is reached; by default that of its table.",
            1e-6,
            1,
        ),
        Setting(
            "bandwidth",
            float,
            5.0,
            "Gigabytes per second of the slowest connection between workers. (5 is 50 Gbit/s "
            "Ethernet at four fifths, as between the machines of the paper's time.)",
            1e-6,
            1e6,
        ),
        Setting("latency", float, 20.0, "Microseconds of one step of a ring all-reduce.", 0, 1e9),
        Setting(
            "jitter",
            float,
            0.02,
            "Standard deviation of the time that one worker takes to compute an update, over its "
            "mean.",
            0,
            1,
        ),
    ),
)
