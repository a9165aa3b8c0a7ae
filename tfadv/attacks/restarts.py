"""How strong an adversarial image is, and the stronger of two."""

import tensorflow as tf


def strength(logits, labels, goals, *, loss, targeted):
    """Ranks adversarial images, so that restarts can keep the strongest.

    Args:
        logits: Float `[batch, classes]` of the adversarial images.
        labels: Integers `[batch]`, the true ones.
        goals: Integers `[batch]`, what the loss looks at: the targets, or the labels.
        loss: Function of float32 logits and classes.
        targeted: Whether goals are targets.

    Returns:
        An int32 level `[batch]` (2 classified as the target, 1 misclassified, 0 classified as the
        label) and a float32 score `[batch]`, the loss in the attack's direction. A higher level is
        stronger; at one level, a higher score.
    """
    logits = tf.cast(logits, tf.float32)
    predicted = tf.argmax(logits, axis=-1, output_type=labels.dtype)
    level = tf.cast(predicted != labels, tf.int32)
    score = loss(logits, goals)
    if not targeted:
        return level, score
    hit = tf.cast(predicted == tf.cast(goals, labels.dtype), tf.int32)
    return level + level * hit, -score


def is_stronger(strength, than):
    """Boolean `[batch]`: where the first `(level, score)` is strictly stronger than the second."""
    (level, score), (best_level, best_score) = strength, than
    return (level > best_level) | ((level == best_level) & (score > best_score))


def strongest(attack, evaluate, count, images, labels):
    """Keeps each image's strongest result of several attacks, looping in the graph.

    Args:
        attack: Function, number of the restart -> images, their goals, and two boolean tensors
            that must hold in all restarts together, `[2]` and a scalar.
        evaluate: Function, images and goals -> their strength.
        count: How many attacks.
        images: Float32 `[batch, ...]`, the clean ones.
        labels: Integers `[batch]`.

    Returns:
        What `attack` returns.
    """

    def again(restart, kept, kept_goals, level, score, first, second):
        new, new_goals, new_first, new_second = attack(restart)
        new_level, new_score = evaluate(new, new_goals)
        better = is_stronger((new_level, new_score), than=(level, score))
        wide = tf.reshape(better, [-1] + [1] * (images.shape.rank - 1))
        return (
            restart + 1,
            tf.where(wide, new, kept),
            tf.where(better, new_goals, kept_goals),
            tf.where(better, new_level, level),
            tf.where(better, new_score, score),
            first & new_first,
            second & new_second,
        )

    none = tf.fill(tf.shape(labels), -1)  # a level below every other, so the first result is kept
    state = (tf.constant(0), images, labels, none, tf.cast(none, tf.float32))
    _, kept, goals, _, _, first, second = tf.while_loop(
        lambda restart, *_: restart < count,
        again,
        (*state, tf.constant([True, True]), tf.constant(True)),
        parallel_iterations=1,
    )
    return kept, goals, first, second
