"""Rules that tie settings to each other, to the launch and to the data, without TensorFlow."""

import warnings
from types import SimpleNamespace

from tfadv import launcher, units
from tfadv.arguments import warn_of_fractions
from tfadv.settings import TRAIN, default
from tfadv.tables import datasets, networks, normalizations


def check_training(settings: SimpleNamespace, workers: int) -> None:
    """Raises `ValueError` for settings that cannot be trained; does not look at the data.

    Args:
        settings: The settings of a training.
        workers: The number of workers that train.
    """
    normalizations.check(settings.norm)
    entry = datasets.ENTRIES[settings.dataset]
    networks.check(
        settings.network,
        settings.depth,
        settings.image_size or entry.image_size,
        settings.blocks,
    )
    both_domains = settings.adversarial and settings.clean_ratio
    # Without clean images the clean branch of a mixture would keep its initial statistics.
    for name, needs_both in (
        ("norm=mbn", settings.norm == "mbn"),
        ("pairing_weight", settings.pairing_weight),
        ("batch_statistics=apart", settings.batch_statistics == "apart"),
    ):
        if needs_both and not both_domains:
            raise ValueError(
                f"{name} needs adversarial and clean images in every batch; received "
                f"adversarial={settings.adversarial}, clean_ratio={settings.clean_ratio}"
            )
    for name in ("affine", "statistics"):
        if getattr(settings, name) == "shared" and settings.norm != "mbn":
            raise ValueError(f"{name}=shared needs norm=mbn; received norm={settings.norm}")
    one_set = settings.norm == "bn" or settings.statistics == "shared"
    if settings.batch_statistics == "apart" and not one_set:
        raise ValueError(
            "batch_statistics=apart needs norm=bn, or norm=mbn with statistics=shared; received "
            f"norm={settings.norm}, statistics={settings.statistics}"
        )
    if settings.running_statistics and settings.norm not in ("bn", "mbn"):
        raise ValueError(
            f"running_statistics needs norm=bn or norm=mbn; received norm={settings.norm}"
        )
    if settings.running_statistics > settings.epochs:
        raise ValueError(
            f"running_statistics must be at most epochs={settings.epochs}; "
            f"received {settings.running_statistics}"
        )
    if settings.adversarial and settings.attack_norm == "l2":
        # The defaults are pixels of 255.
        if settings.epsilon == default(TRAIN, "epsilon"):
            raise ValueError(
                "epsilon must be given with attack_norm=l2, for images from 0 to 1; received "
                f"{settings.epsilon:g}"
            )
        if settings.attack == "pgd" and settings.step_size > 2 * settings.epsilon:
            raise ValueError(
                "step_size must be at most twice epsilon with attack_norm=l2, for images from 0 "
                f"to 1; received {settings.step_size:g}"
            )
    decays = list(settings.decay_epochs)
    if decays != sorted(set(decays)):
        raise ValueError(f"decay_epochs must increase; received {','.join(map(str, decays))}")
    if settings.decay == "exponential" and not 0 < settings.decay_rate:
        raise ValueError(f"decay_rate must be above 0; received {settings.decay_rate}")
    if settings.trainable == "norm" and not settings.init_from:
        raise ValueError("trainable=norm needs init_from, a trained network; received none")
    parts = accumulation_steps(settings, workers)
    if settings.attack_parts and parts % settings.attack_parts:
        raise ValueError(
            f"attack_parts must divide the {units.count(parts, 'accumulated step')} of an update "
            f"by {units.count(workers, 'worker')}; received {settings.attack_parts}"
        )
    if settings.resume and not settings.run_dir:
        raise ValueError("resume needs run_dir; received none")


def accumulation_steps(settings: SimpleNamespace, workers: int | None = None) -> int:
    """The number of mini-batches that each worker accumulates into one update.

    Args:
        settings: The settings of a training.
        workers: The number of workers; by default that of this launch.

    Raises:
        ValueError: If `batch_size` is no multiple of `images_per_worker * workers`.
    """
    workers = workers or launcher.workers()
    at_once = settings.images_per_worker * workers
    if settings.batch_size % at_once:
        raise ValueError(
            f"batch_size must be a multiple of images_per_worker={settings.images_per_worker} times"
            f" {units.count(workers, 'worker')}; received {settings.batch_size}"
        )
    return settings.batch_size // at_once


def warn_of_large_batch(settings: SimpleNamespace) -> None:
    """Warns if the images of one update are more than the data set has."""
    batch = settings.batch_size
    images = datasets.num_train(settings.dataset, settings.data_dir, limit=batch)
    if images < batch:
        warnings.warn(
            f"batch_size={batch} is more than the {images} training images of {settings.dataset}: "
            f"every update takes each image about {batch / images:.3g} times; a batch_size of at "
            f"most {images} takes it at most once",
            stacklevel=2,
        )


def warn_of_lengths(settings: SimpleNamespace) -> None:
    """Warns if lengths of the attack look like fractions, once in a launch."""
    if warns() and settings.attack_norm == "linf":
        warn_of_fractions(settings.epsilon, settings.step_size)


def warns() -> bool:
    """Whether this process is the one of the launch that warns: rank 0 of the workers."""
    return launcher.rank() == 0 and not launcher.precedes_workers()


def compute_dtypes(settings: SimpleNamespace) -> tuple[str, str]:
    """The dtypes that the attack and the pass of the update compute in."""
    update = settings.dtype.removeprefix("mixed_")
    attack = settings.attack_precision
    return (update if attack == "float32" else attack), update


def check_model(settings: SimpleNamespace) -> None:
    """Raises `ValueError` unless the settings name one model and a valid range of its images."""
    if bool(settings.run_dir) == bool(settings.model):
        raise ValueError(
            "one of run_dir and model must be given; "
            f"received run_dir={settings.run_dir}, model={settings.model}"
        )
    limits = settings.value_range
    if limits is not None and (len(limits) != 2 or limits[0] >= limits[1]):
        raise ValueError(f"value_range must be low,high; received {','.join(map(str, limits))}")


def check_one_process(program: str) -> None:
    """Raises `ValueError` if a launcher has started several workers."""
    if launcher.workers() > 1:
        raise ValueError(f"{program} runs in one process; received {launcher.workers()} workers")
