"""Every flag of a training, as data: name, kind, default, rule, what it is."""

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
        low, high: The least and the greatest value, of every element of a list; every number must
            be finite.
        choices: The values of a string.
    """

    name: str
    kind: object
    default: object
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple = ()


# Where no rule says otherwise, numbers end where they can only be mistakes: behind them come
# numbers that no machine has the memory or the time for.
EPOCHS = 1_000_000
STEPS = 1_000_000
AT_ONCE = 65_536
IMAGES = 10**9

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
    Flag(
        "clip_start",
        bool,
        False,
        "Whether a random start is clipped to the pixel range before the first gradient.",
    ),
    Flag("targeted", bool, True, "Whether the attack aims at a random wrong class."),
    Flag(
        "attack_loss",
        str,
        "cross_entropy",
        "What the attack's gradient is taken of.",
        choices=("cross_entropy", "margin"),
    ),
    Flag("restarts", int, 1, "Attacks per image, of which the strongest counts.", 1, 10_000),
    Flag(
        "attack_precision",
        str,
        "float32",
        "What the network computes in while it is attacked; images and their ball are float32. "
        "bfloat16 and float16 pay where the processor has instructions for them.",
        choices=("float32", "bfloat16", "float16"),
    ),
    Flag(
        "attack_xla",
        str,
        "auto",
        "Whether XLA compiles the attack; auto does so on GPUs.",
        choices=("auto", "on", "off"),
    ),
)

DATA = (
    Flag("dataset", str, "imagenet2012", "Name of the data set."),
    Flag("data_dir", str, None, "Directory of the data set; by default tensorflow-datasets' own."),
    Flag(
        "image_size", int, None, "Height and width in pixels; by default the data set's.", 1, 4096
    ),
)

COMMON = (
    Flag("seed", int, 0, "Keys every random draw.", 0, 2**31 - 1),
    Flag("check", bool, False, "Only check the flags and that the data are there."),
)

STALL_SECONDS = Flag(
    "stall_seconds",
    float,
    1800.0,
    "Seconds without any worker's progress after which the job is ended, naming who hangs; 0 never "
    "does. More than the longest step takes, with its compilation.",
    0,
    1_000_000,
)

TRAIN = (
    *DATA,
    Flag(
        "network",
        str,
        "resnet",
        "resnet, resnet_denoise, resnext_denoise_all, or small_resnet (8 to 64 pixels).",
    ),
    Flag(
        "depth",
        int,
        152,
        "Of the network: 50 to 638 (resnet), or 6n + 2 (small_resnet).",
        1,
        10_000,
    ),
    Flag("width", int, None, "Channels of the first stage; by default 64 (resnet) or 16.", 1, 4096),
    Flag(
        "blocks",
        [int],
        None,
        "Blocks of each stage, for another split or depth of a resnet.",
        1,
        1000,
    ),
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
    Flag(
        "pairing_weight", float, 0.0, "Weight of adversarial logit pairing; 0.5 for ALP.", 0, 1000
    ),
    Flag("running_statistics", int, 0, "Last epochs that train on running statistics.", 0, EPOCHS),
    Flag("num_steps", int, 30, "Attack iterations in training.", 0, STEPS),
    *ATTACK,
    Flag("start_from_clean", float, 0.2, "Share of batches attacked from the image itself.", 0, 1),
    Flag("epochs", int, 110, "Of training.", 1, EPOCHS),
    Flag("batch_size", int, 4096, "Clean images of one update, over all workers.", 1, 2**24),
    Flag(
        "images_per_worker",
        int,
        32,
        "Images that one batch normalization sees at a time.",
        1,
        AT_ONCE,
    ),
    Flag(
        "steps_per_epoch", int, None, "Updates; by default the images through batch_size.", 1, 10**9
    ),
    Flag(
        "optimizer",
        str,
        "sgd",
        "sgd, with Nesterov momentum; or rmsprop, that of the first ALP (Appendix A).",
        choices=("sgd", "rmsprop"),
    ),
    Flag("momentum", float, 0.9, "Of either optimizer.", 0, 1),
    Flag("rmsprop_rho", float, 0.9, "Decay of RMSProp's mean of squared gradients.", 0, 1),
    Flag("rmsprop_epsilon", float, 1.0, "Added to that mean, under the root.", 1e-10, 1e6),
    Flag("learning_rate", float, 0.1, "For every 256 images of batch_size.", 0, 1000),
    Flag("warmup_epochs", int, 5, "Epochs from learning_rate to its scaled value.", 0, EPOCHS),
    Flag(
        "decay",
        str,
        "step",
        "step divides the learning rate by 10 at decay_epochs; exponential multiplies it by "
        "decay_rate every decay_every epochs.",
        choices=("step", "exponential"),
    ),
    Flag(
        "decay_epochs",
        [int],
        (35, 70, 95),
        "Epochs at which the learning rate falls by 10.",
        0,
        EPOCHS,
    ),
    Flag("decay_rate", float, 0.94, "Of the exponential decay (Appendix A).", 0, 1),
    Flag("decay_every", int, 2, "Epochs between exponential decays.", 1, EPOCHS),
    Flag("weight_decay", float, 1e-4, "On the kernels of convolutions and dense layers.", 0, 1000),
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
    Flag(
        "gradient_compression",
        str,
        "none",
        "Of gradients between workers: fp16 sends them in half the bytes, rounded.",
        choices=("none", "fp16"),
    ),
    # Of each worker, since a worker cannot know what the others meet without waiting for them; and
    # 0, since a data set that is whole has none, and one that is not should be looked at.
    Flag(
        "max_bad_images",
        int,
        0,
        "Training images that cannot be read which each worker may pass over in an epoch, naming "
        "them; one more ends the run. Evaluations pass over none.",
        0,
        IMAGES,
    ),
    Flag(
        "max_bad_steps",
        int,
        0,
        "Updates with a loss or gradient that is not finite which may be left out; one more ends "
        "the run.",
        0,
        STEPS,
    ),
    Flag("image_pairs", int, 4, "Clean and adversarial images shown in TensorBoard.", 0, 64),
    Flag(
        "eval_num_steps",
        [int],
        (10,),
        "Attack iterations of the evaluation in training.",
        1,
        STEPS,
    ),
    Flag("eval_every", int, 1, "Epochs between such evaluations.", 1, EPOCHS),
    Flag(
        "strong_eval_num_steps", [int], (100,), "Iterations of the stronger evaluation.", 1, STEPS
    ),
    Flag(
        "strong_eval_every", int, 10, "Epochs between these, which the last 5 have too.", 1, EPOCHS
    ),
    Flag(
        "eval_limit",
        int,
        None,
        "Images of the evaluations in training; by default all.",
        1,
        IMAGES,
    ),
    Flag("run_dir", str, None, "Directory of the run; by default runs/, named by its settings."),
    Flag("resume", bool, False, "Continue the run in run_dir from its last checkpoint."),
    Flag(
        "keep_checkpoints",
        int,
        10,
        "How many of the last epochs' stay, beside the best.",
        1,
        EPOCHS,
    ),
    Flag(
        "checkpoint_minutes",
        float,
        30.0,
        "Minutes after which a checkpoint is written within an epoch; 0 for none.",
        0,
        1_000_000,
    ),
    STALL_SECONDS,
    *COMMON,
)
