"""The rules that tie settings to each other, to the launch and to the data; without TensorFlow."""

import warnings

from tfadv import launcher
from tfadv.tables import datasets, devices, networks, normalizations


def check_train(settings):
    """Raises `ValueError`, in one line, for settings that cannot be trained."""
    datasets.check(settings.dataset, settings.data_dir, settings.image_size)
    check_strategy(settings, launcher.workers())


def check_strategy(settings, workers):
    """The same, but for whether the data are there.

    Args:
        settings: Namespace.
        workers: How many workers shall train.
    """
    normalizations.check(settings.norm)
    entry = datasets.ENTRIES[settings.dataset]
    networks.check(
        settings.network,
        settings.depth,
        settings.image_size or entry.image_size,
        settings.blocks,
    )
    if settings.norm == "mbn" and not (settings.adversarial and settings.clean_ratio):
        # Its clean branch would keep the statistics it was born with.
        raise ValueError(
            "norm=mbn needs adversarial and clean images in every batch; received "
            f"adversarial={settings.adversarial}, clean_ratio={settings.clean_ratio}"
        )
    if settings.affine == "shared" and settings.norm != "mbn":
        raise ValueError(f"affine=shared needs norm=mbn; received norm={settings.norm}")
    if settings.pairing_weight and not (settings.adversarial and settings.clean_ratio):
        raise ValueError(
            "pairing_weight needs adversarial and clean images in every batch; received "
            f"adversarial={settings.adversarial}, clean_ratio={settings.clean_ratio}"
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
    decays = list(settings.decay_epochs)
    if decays != sorted(set(decays)):
        raise ValueError(f"decay_epochs must increase; received {','.join(map(str, decays))}")
    if settings.decay == "exponential" and not 0 < settings.decay_rate:
        raise ValueError(f"decay_rate must be above 0; received {settings.decay_rate}")
    if settings.trainable == "norm" and not settings.init_from:
        raise ValueError(
            "trainable=norm needs init_from, a network that was trained; received none"
        )
    accumulation_steps(settings, workers)
    if settings.resume and not settings.run_dir:
        raise ValueError("resume needs run_dir; received none")


def accumulation_steps(settings, workers=None):
    """How many parts of a worker's batch share one update: `batch_size` over all that fit at once.

    Args:
        settings: Namespace.
        workers: How many share it; None for those of this launch.

    Raises:
        ValueError: If they do not divide it.
    """
    workers = workers or launcher.workers()
    at_once = settings.images_per_worker * workers
    if settings.batch_size % at_once:
        raise ValueError(
            f"batch_size must be a multiple of images_per_worker={settings.images_per_worker} times"
            f" {workers} workers; received {settings.batch_size}"
        )
    return settings.batch_size // at_once


def warn_of_large_batch(settings):
    """Warns if one update takes more images than there are, and so some of them more than once."""
    batch = settings.batch_size
    images = datasets.num_train(settings.dataset, settings.data_dir, limit=batch)
    if images < batch:
        warnings.warn(
            f"batch_size={batch} is more than the {images} training images of {settings.dataset}: "
            f"every update takes each image about {batch / images:.3g} times; a batch_size of at "
            f"most {images} takes it at most once",
            stacklevel=2,
        )


def compute_dtypes(settings):
    """What the attack and what the update's pass compute in."""
    update = settings.dtype.removeprefix("mixed_")
    attack = settings.attack_precision
    return (update if attack == "float32" else attack), update


def check_evaluate(settings):
    """Raises `ValueError`, in one line, for settings that cannot be evaluated."""
    check_model(settings)
    if settings.model and not settings.dataset:
        raise ValueError("dataset must be given with model; received none")


def check_inspect(settings):
    """Raises `ValueError`, in one line, for settings that nothing can be inspected with."""
    check_model(settings)
    _check_one_process("inspect")
    if settings.model and not settings.output:
        raise ValueError("output must be given with model; received none")


def check_plan(settings):
    """Raises `ValueError`, in one line, for settings that cannot be planned for."""
    _check_one_process("plan")
    entry = datasets.ENTRIES.get(settings.dataset)
    # Other data sets need not be here: their numbers are known.
    if entry is None or entry.kind == "folder":
        datasets.check(settings.dataset, settings.data_dir)
    if settings.device != "here":
        if settings.device not in devices.known_devices():
            raise ValueError(
                f"device must be here or one of {', '.join(devices.known_devices())}; "
                f"received {settings.device!r}"
            )
        for dtype in compute_dtypes(settings):
            devices.known_device(settings.device, dtype)
    elif settings.efficiency is not None:
        raise ValueError(
            f"efficiency must not be given with device=here; received {settings.efficiency}"
        )
    check_strategy(settings, settings.workers)


def check_predict(settings):
    """Raises `ValueError`, in one line, for settings that nothing can be classified with."""
    check_model(settings)
    _check_one_process("predict")
    if len(settings.directory) > 1:
        raise ValueError(f"one directory must be given; received {' '.join(settings.directory)}")
    if settings.class_names and not (settings.run_dir or settings.dataset):
        raise ValueError("class_names needs run_dir, or dataset with model; received neither")


def check_model(settings):
    """Raises `ValueError` unless settings name one model, and the range of its images well."""
    if bool(settings.run_dir) == bool(settings.model):
        raise ValueError(
            "one of run_dir and model must be given; "
            f"received run_dir={settings.run_dir}, model={settings.model}"
        )
    found = settings.value_range
    if found is not None and (len(found) != 2 or found[0] >= found[1]):
        raise ValueError(f"value_range must be low,high; received {','.join(map(str, found))}")


def _check_one_process(program):
    if launcher.workers() > 1:
        raise ValueError(f"{program} runs in one process; received {launcher.workers()} workers")
