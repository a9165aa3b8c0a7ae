"""How many steps a pass over the data takes."""


def steps_per_epoch(num_train: int, batch_size: int) -> int:
    """Number of updates that count as one epoch (pipeline).

    `steps = max(1, round(num_train / batch_size))`, halves rounded up.

    Args:
        num_train: Number of training examples.
        batch_size: Images of one update, over all workers.

    Raises:
        ValueError: If an argument is below 1.
    """
    _check_positive(num_train=num_train, batch_size=batch_size)
    return max(1, (2 * num_train + batch_size) // (2 * batch_size))


def validation_steps(num_examples: int, batch_size: int, size: int = 1) -> int:
    """Number of batches in which every worker sees its share of an evaluation.

    `steps = ceil(ceil(num_examples / size) / batch_size)`: the same on every worker, so that
    collective calls match; workers with fewer examples pad.

    Args:
        num_examples: Number of examples, over all workers.
        batch_size: Images per worker.
        size: Number of workers.

    Raises:
        ValueError: If an argument is below 1.
    """
    _check_positive(num_examples=num_examples, batch_size=batch_size, size=size)
    per_worker = -(-num_examples // size)
    return -(-per_worker // batch_size)


def _check_positive(**values):
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; received {value}")
