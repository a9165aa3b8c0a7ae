import tensorflow as tf


class Meters:
    """Losses, accuracies and attack success by domain, as means over the images of an epoch.

    Their sums are one small vector, so that they cost the workers' collective nothing; and they
    are no metrics of the model, whose evaluation they must not leak into.

    Args:
        domains: Which there are, of `("adv", "clean")`.
        targeted: Whether the attack aims at a class, for what its success is.

    Attributes:
        sums: A variable `[means, 2]`, of every mean its sum and its weight.
    """

    def __init__(self, domains, targeted=True):
        self.domains = domains
        self.targeted = targeted
        self.names = ["loss"]
        for domain in domains:
            self.names += [f"{domain}_loss", f"{domain}_accuracy"]
        if "adv" in domains:
            self.names.append("attack_success")
        self.sums = tf.Variable(tf.zeros([len(self.names), 2]), trainable=False)

    @property
    def shape(self):
        """Of what `measure` returns."""
        return self.sums.shape

    def measure(self, batch, outputs, loss, losses, goals):
        """What one mini-batch adds.

        Args:
            batch: A `tfadv.training.batches.Mixture`.
            outputs: Tensor `[batch, classes]`, or what holds it.
            loss: Scalar tensor, of the whole mini-batch.
            losses: Dictionary of scalar tensors, by domain.
            goals: Integers, the targets of a targeted attack.

        Returns:
            A float32 tensor of sums and weights.
        """
        predicted = tf.argmax(tf.nest.flatten(outputs)[0], axis=-1, output_type=tf.int64)
        labels = sparse(tf.nest.flatten(batch.labels)[0])
        rows = {"loss": (loss, batch.num_adversarial + batch.num_clean)}
        for domain in self.domains:
            hits = batch.part(predicted == labels, domain)
            count = tf.size(hits)
            rows[f"{domain}_loss"] = (losses[domain], count)
            rows[f"{domain}_accuracy"] = (_share(hits), count)
        if "adv" in self.domains:
            attacked = batch.part(predicted, "adv")
            success = (
                attacked == tf.cast(goals, tf.int64)
                if self.targeted
                else attacked != batch.part(labels, "adv")
            )
            rows["attack_success"] = (_share(success), tf.size(success))
        table = []
        for name in self.names:
            mean, count = rows[name]
            count = tf.cast(count, tf.float32)
            table.append([tf.cast(mean, tf.float32) * count, count])
        return tf.convert_to_tensor(table)

    def add(self, measured):
        """Adds what was measured (by all workers) and returns the means so far, by name."""
        self.sums.assign_add(measured)
        return self.results()

    def results(self):
        """The means so far, by name."""
        means = tf.math.divide_no_nan(self.sums[:, 0], self.sums[:, 1])
        return dict(zip(self.names, tf.unstack(means), strict=True))

    def reset(self):
        """Starts a new epoch."""
        self.sums.assign(tf.zeros_like(self.sums))


def sparse(labels):
    """Class numbers, int64 `[batch]`, of labels that are sparse or one-hot."""
    if labels.shape.rank == 2 and labels.shape[-1] != 1:
        return tf.argmax(labels, axis=-1, output_type=tf.int64)
    return tf.cast(tf.reshape(labels, [-1]), tf.int64)


def _share(hits):
    return tf.reduce_mean(tf.cast(hits, tf.float32))
