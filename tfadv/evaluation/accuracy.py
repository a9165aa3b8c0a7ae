from tfadv.evaluation.evaluator import Evaluator


def evaluate(
    model,
    data,
    attack=None,
    num_steps=None,
    domains=("adv",),
    batch_size=64,
    value_range=None,
    seed=0,
    limit=None,
    progress=None,
    attack_precision="float32",
    journal=None,
):
    """Measures clean accuracy and, under attack, robust accuracy and attack success.

    Every image counts once, whatever the number of workers: each worker takes the images whose
    index is its rank modulo their number, all batches are padded to one shape, and whole counts are
    summed. An image's targets and starts are keyed by `(seed, index)`, so that any number of
    workers and any batch size attacks it the same way.

    Numbers of steps that share a step size (after the attack's rule) share one trajectory, read off
    as it passes each of them: PGD-20, 100, 500 and 2000 cost 2000 steps and give the bits of
    separate runs; PGD-10 of the paper, whose step size is raised to 1.6, runs alone. An attack that
    cannot go on from where it is (`tfadv.attacks.Attack.advances`) starts over for each number.

    With `attack.restarts` above 1, an image is robust only if it is classified right after each of
    them, and the attack succeeds if any of them does, for each number of steps.

    Args:
        model: A Keras model, images -> classes; a final softmax, sigmoid or tanh is left out for
            the attack, as by `tfadv.models.logits`.
        data: A `tfadv.data.Dataset` (its validation images), a pair (images, labels) of arrays, or
            a batched `tf.data.Dataset` of such pairs, which must give them in the same order every
            time. Labels are sparse or one-hot. Images are in `value_range`. Each of several workers
            gives all images, which they share out, or a share of its own; they compare checksums,
            for which a `tf.data.Dataset` is read once more.
        attack: A `tfadv.attacks.Attack`, or None to look at clean images alone. (The paper
            evaluates with `start_from_clean=0`.)
        num_steps: Integer or list of integers, at least 1; None for the attack's own, or for an
            attack without steps.
        domains: Of `"adv"` and `"clean"`, the branches of a mixture that are attacked and reported,
            each by itself. Models without a mixture have but one: the domain of their results is
            None.
        batch_size: Images per worker.
        value_range: `(low, high)` of the images; None reads the model's input contract.
        seed: Integer.
        limit: Only the first `limit` images, over all workers; None for all.
        progress: Function of (done batches, total batches or None where not known), called after
            each batch, such as `progress_bar()`; or None.
        attack_precision: What the network computes in while it is attacked, `"float32"`,
            `"bfloat16"` or `"float16"`, as of `tfadv.models.Frozen`. What it then makes of the
            images is always the model's own answer.
        journal: A `tfadv.evaluation.Journal`, with which an evaluation that was killed goes on
            where it was: no image is attacked again. None keeps nothing.

    Returns:
        A list of `Result`, the same on every worker: for each domain first the clean images, then
        each number of steps, ascending.

    Raises:
        ValueError: For arguments outside of these rules, data that do not fit the model, images
            outside of the range, or a model that gives the attack no gradient.
    """
    evaluator = Evaluator(model, attack, num_steps, domains, value_range, seed, attack_precision)
    return evaluator(data, batch_size, limit, progress, journal)
