import dataclasses
import warnings
from typing import Any

import keras
import tensorflow as tf

from tfadv.arguments import warn_once
from tfadv.layers import scope
from tfadv.layers.batch_normalization import BatchNormalization

_PARAMETER_OPTIONS = (
    "beta_initializer",
    "gamma_initializer",
    "moving_mean_initializer",
    "moving_variance_initializer",
    "beta_regularizer",
    "gamma_regularizer",
    "beta_constraint",
    "gamma_constraint",
)


@keras.saving.register_keras_serializable("tfadv")
class MixtureBatchNormalization(keras.layers.Layer):
    """Mixture BN: one batch normalization for adversarial images, another for clean images.

    `output = concat(BN_adv(x[:n]), BN_clean(x[n:]))`, where the first `n` images are adversarial

    Adversarial and clean images come from two domains, and statistics that are estimated on their
    mixture fit neither. In training, this layer splits the batch and normalizes each part with its
    own mean and variance, gamma and beta, while all other layers of the network see one batch. At
    inference, all images go through one of the two branches: the adv branch, which is the robust
    one, unless the caller chooses the clean branch.

    The caller chooses with `tfadv.models.call(model, images, domain=...)`, as
    `tfadv.callbacks.AdversarialTraining` does in `fit`; `tfadv.models.extract(model, domain)`
    returns a plain Keras model of one branch. If nothing chooses, as in a plain `fit`, all images
    train the adv branch, and a warning says so. A branch that gets no images does not change.

    Args:
        axis: Integer, the axis of the channels.
        momentum: Float, of the moving statistics (pipeline: 0.9; Keras: 0.99).
        epsilon: Float, added to the variance (pipeline: 1e-5; Keras: 1e-3).
        center, scale: Booleans, whether there is a beta, and a gamma.
        affine: `"separate"` gives each branch its own gamma and beta, as in the paper; with
            `"shared"` the branches differ only in their statistics.
        statistics: `"separate"` gives each branch its own moving statistics, and each part of a
            batch its own mean and variance, as in the paper. With `"shared"` the branches differ
            only in gamma and beta: both parts are normalized with the mean and variance of the
            whole batch, or each with its own where
            `AdversarialTraining(batch_statistics="apart")` says so.
        **kwargs: Initializers, regularizers and constraints as of
            `keras.layers.BatchNormalization`, for both branches; and arguments of the base layer
            (`name`, `dtype`, `trainable`).

    Attributes:
        adv: The branch for adversarial images, a `tfadv.layers.BatchNormalization`.
        clean: The branch for clean images, another one.

    Call arguments:
        inputs: Tensor `[batch, ...]`, adversarial images first.
        training: Boolean, whether to normalize with the statistics of the batch.
        mask: Boolean tensor, or `None`, as of `BatchNormalization`.

    Returns:
        A tensor of the shape of `inputs`, of the compute dtype.

    Raises:
        ValueError: If `affine` or `statistics` is neither `"separate"` nor `"shared"`.

    Reference:

    - [Xie and Yuille, 2020](https://arxiv.org/abs/1906.03787), Section 4.2 and Figure 4

    Example:

    ```python
    inputs = keras.Input((64, 64, 3))
    x = keras.layers.Conv2D(8, 3, use_bias=False)(inputs)
    x = keras.layers.ReLU()(tfadv.layers.MixtureBatchNormalization()(x))
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)

    # The first four images train the adv branch, the others the clean branch.
    logits = tfadv.models.call(model, images, training=True, domain=4)
    ```
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        affine: str = "separate",
        statistics: str = "separate",
        **kwargs: Any,
    ) -> None:
        for option, value in (("affine", affine), ("statistics", statistics)):
            if value not in ("separate", "shared"):
                raise ValueError(f'{option} must be "separate" or "shared"; received {value!r}')
        parameters = {name: kwargs.pop(name) for name in _PARAMETER_OPTIONS if name in kwargs}
        super().__init__(**kwargs)
        self.supports_masking = True
        self.affine, self.statistics = affine, statistics
        options: dict[str, Any] = dict(
            axis=axis,
            momentum=momentum,
            epsilon=epsilon,
            center=center,
            scale=scale,
            dtype=self.dtype_policy,
            trainable=self.trainable,
            **parameters,
        )
        self.adv = BatchNormalization(name="adv", **options)
        self.clean = BatchNormalization(name="clean", **options)

    def build(self, input_shape: tuple) -> None:
        self.adv.build(input_shape)
        self.clean.share(
            self.adv,
            *(("gamma", "beta") if self.affine == "shared" else ()),
            *(("moving_mean", "moving_variance") if self.statistics == "shared" else ()),
        )
        self.clean.build(input_shape)

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        if training and self.trainable and not scope.is_entered():
            _warn_of_one_branch()
        current = scope.current()
        current.seen.add(id(self))
        domain = current.domain
        if isinstance(domain, str):
            branch = self.adv if domain == "adv" else self.clean
            return branch(inputs, training=training, mask=mask)
        of_whole_batch = self.statistics == "shared" and not current.apart
        if of_whole_batch and training and self.trainable and not current.running_statistics:
            return self._with_shared_statistics(inputs, mask, current)
        parts, masks = current.split(inputs), current.split(mask)
        outputs = []
        for domain, images, part_mask in zip(("adv", "clean"), parts, masks, strict=True):
            branch = self.adv if domain == "adv" else self.clean
            # A part that is known to be empty need not be traced, if the other one is not empty.
            if images.shape[0] != 0 or inputs.shape[0] == 0:
                with scope.use(dataclasses.replace(current, domain=domain)):
                    outputs.append(branch(images, training=training, mask=part_mask))
        return outputs[0] if len(outputs) == 1 else tf.concat(outputs, axis=0)

    def _with_shared_statistics(self, inputs, mask, current):
        moving = self.adv.moving_mean.value
        one, zero = tf.ones_like(moving), tf.zeros_like(moving)
        parts = current.split(tf.cast(self.adv.normalize(inputs, mask, one, zero), moving.dtype))
        shape = [1] * inputs.shape.rank
        shape[self.adv.axis] = -1
        outputs = []
        for branch, part in zip((self.adv, self.clean), parts, strict=True):
            gamma, beta = (tf.reshape(values, shape) for values in branch.affine())
            outputs.append(gamma * part + beta)
        return tf.cast(tf.concat(outputs, axis=0), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        branch = self.adv.get_config()
        names = ("axis", "momentum", "epsilon", "center", "scale", *_PARAMETER_OPTIONS)
        options = {name: branch[name] for name in names}
        own = {"affine": self.affine, "statistics": self.statistics}
        return {**super().get_config(), **options, **own}


# Keras's own warning, where every variable that it lists is the gamma or beta of a clean branch.
_NO_GRADIENTS = r"Gradients do not exist for variables \[('[^']*/clean/(gamma|beta)'(, )?)+\] "


def _warn_of_one_branch():
    warnings.filterwarnings("ignore", _NO_GRADIENTS, UserWarning)
    warn_once(
        "mixture without a domain",
        "mixture batch normalization trains its adv branch alone, on all images, and its clean "
        "branch stays as it is: give fit the callback tfadv.callbacks.AdversarialTraining, or "
        "call the model with tfadv.models.call in a loop of your own",
    )
