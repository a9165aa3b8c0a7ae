import contextlib
import inspect

import keras
import tensorflow as tf

from tfadv.layers import (
    BatchNormalization,
    GroupedConv2D,
    GroupNormalization,
    InputContract,
    MixtureBatchNormalization,
    NonLocalMeans,
)
from tfadv.layers import normalization as make_normalization
from tfadv.models import calling
from tfadv.models.logits_only import WithoutActivation
from tfadv.tables.normalizations import check as check_norm


def convert(model, norm):
    """Copies a model with every batch normalization replaced by another normalization.

    The copy has the weights of the model. Both branches of a mixture start as the batch
    normalization that they replace; group, layer and instance normalization take its gamma and
    beta. Axis, momentum, epsilon, initializers, regularizers, and whether the layer is trainable
    are kept where the new layer has them.

    Args:
        model: A functional or sequential Keras model, nested ones included; for example any of
            `keras.applications`.
        norm: `"bn"` (tfadv's, which can train with running statistics), `"mbn"`, `"gn"`, `"ln"`
            or `"in"`.

    Returns:
        A new model, not compiled, that shares nothing with the old one.

    Raises:
        ValueError: For an unknown norm, a model that cannot be cloned, such as one with a Lambda
            layer, a model without batch normalization, or one that holds batch normalization inside
            of a layer that is not a functional model, where it cannot be replaced.
    """
    check_norm(norm)
    if calling.mixtures(model):
        raise ValueError(
            f"model must hold plain batch normalization; {model.name!r} has mixtures, of which "
            "tfadv.models.extract takes one branch"
        )
    found = [layer for layer in model._flatten_layers() if _is_plain(layer)]
    if not found:
        raise ValueError(f"model must have batch normalization to convert; {model.name!r} has none")

    def replace(layer):
        if not _is_plain(layer):
            return None
        config = layer.get_config()
        kept = ("name", "dtype", "trainable", "axis", "center", "scale", *_PARAMETER_OPTIONS)
        options = {key: config[key] for key in kept}
        if norm in ("bn", "mbn"):
            if layer.renorm or layer.synchronized:
                raise ValueError(
                    f"norm={norm!r} needs batch normalization of one worker's own statistics; "
                    f"layer {layer.path!r} has renorm={layer.renorm}, "
                    f"synchronized={layer.synchronized}"
                )
            options.update({key: config[key] for key in ("momentum", "epsilon", *_MOVING_OPTIONS)})
        return make_normalization(norm, layer.moving_mean.shape[0], **options)

    def copy_weights(old, new):
        if isinstance(new, MixtureBatchNormalization):
            for branch in (new.adv, new.clean):
                branch.set_weights(old.get_weights())
        elif isinstance(new, BatchNormalization):
            new.set_weights(old.get_weights())
        else:
            for name in ("gamma", "beta"):
                if getattr(old, name) is not None:
                    getattr(new, name).assign(getattr(old, name))

    return _clone(model, replace, copy_weights)


def extract(model, domain):
    """Copies a model as plain Keras, with one branch of every mixture.

    What other tools, servers and exporters need: each mixture and each of tfadv's batch
    normalizations becomes a `keras.layers.BatchNormalization`, the input contract a
    `keras.layers.Rescaling`, grouped convolutions and group normalizations become Keras's own, and
    non-local means a nested model of Keras's operations. Loading the saved copy needs no tfadv.

    Args:
        model: A functional or sequential Keras model, nested ones included.
        domain: `"adv"` for the robust branch, `"clean"` for the one that is accurate on clean
            images.

    Returns:
        A new model, not compiled, whose inference equals that of the branch.

    Raises:
        ValueError: For another domain or a model that cannot be cloned.
    """
    if domain not in ("adv", "clean"):
        raise ValueError(f'domain must be "adv" or "clean"; received {domain!r}')

    def chosen(layer):
        if isinstance(layer, MixtureBatchNormalization):
            return layer.adv if domain == "adv" else layer.clean
        return layer

    def replace(layer):
        if isinstance(layer, InputContract):
            scale, offset = layer.scale_and_offset
            # In float32 as the contract, whatever the policy; the next layer casts.
            return keras.layers.Rescaling(scale, offset, name=layer.name, dtype="float32")
        if isinstance(layer, GroupedConv2D):
            return keras.layers.Conv2D.from_config(layer.get_config())
        if isinstance(layer, GroupNormalization):
            return keras.layers.GroupNormalization.from_config(layer.get_config())
        if isinstance(layer, NonLocalMeans):
            return _as_operations(layer)
        if isinstance(layer, WithoutActivation):
            config = {**layer.layer.get_config(), "activation": "linear"}
            return type(layer.layer).from_config(config)
        source = chosen(layer)
        if not isinstance(source, BatchNormalization):
            return None
        config = {**source.get_config(), "name": layer.name}
        if tf.as_dtype(source.variable_dtype).size < 4:
            # Keras's would round the float32 statistics; the mixed policy computes the same.
            config["dtype"] = f"mixed_{source.variable_dtype}"
        return keras.layers.BatchNormalization.from_config(config)

    def copy_weights(old, new):
        new.set_weights(chosen(old).get_weights())

    return _clone(model, replace, copy_weights)


def _as_operations(layer):
    """A functional model that computes what a layer without weights does."""
    inputs = [keras.Input(shape, dtype=layer.compute_dtype) for shape in layer.shapes]
    return keras.Model(inputs, layer.call(inputs), name=layer.name)


_PARAMETER_OPTIONS = tuple(
    f"{parameter}_{option}"
    for parameter in ("gamma", "beta")
    for option in ("initializer", "regularizer", "constraint")
)
_MOVING_OPTIONS = ("moving_mean_initializer", "moving_variance_initializer")


def _is_plain(layer):
    return isinstance(layer, keras.layers.BatchNormalization)


def _clone(model, replace, copy_weights):
    """Clones a model, `replace(layer)` where that is not None, and copies every weight."""
    if not _is_cloneable(model):
        raise ValueError(
            "model must be functional or sequential to be cloned; "
            f"received the subclassed {type(model).__name__} {model.name!r}"
        )
    if not model.built:
        raise ValueError(
            f"model must be built to be cloned, by its first call or a keras.Input; {model.name!r} "
            "is not"
        )
    copies = {}

    def clone(layer):
        # Once, in however many places the layer lies.
        if id(layer) not in copies:
            copies[id(layer)] = (layer, *clone_once(layer))
        return copies[id(layer)][1]

    def clone_once(layer):
        if _is_cloneable(layer):
            # Not Keras's `recursive=True`: below a sequential model it forgets `call_function`.
            options = {} if isinstance(layer, keras.Sequential) else {"call_function": _call}
            return keras.models.clone_model(layer, clone_function=clone, **options), None
        if not isinstance(layer, keras.Layer):  # an operation, as of `x + y`
            return _copied(layer), None
        new = replace(layer)
        if new is not None:
            return new, copy_weights
        inside = [part for part in layer._flatten_layers(include_self=False) if replace(part)]
        if inside:
            raise ValueError(
                f"every layer to replace must lie in a functional model; {inside[0].path!r} "
                f"lies in a {type(layer).__name__}"
            )
        return _copied(layer), _copy_all

    with _not_compiled(model):
        copy = clone(model)
    for old, new, copy_into in copies.values():
        if copy_into is not None:
            copy_into(old, new)
    return copy


def _is_cloneable(layer):
    return isinstance(layer, keras.Sequential) or bool(getattr(layer, "_operations", None))


def _copied(layer):
    """A layer or operation made again from its configuration; or `ValueError`, in one line."""
    try:
        return layer.__class__.from_config(layer.get_config())
    except Exception as error:  # whatever a layer of the user's raises
        kind, path = type(layer).__name__, getattr(layer, "path", None) or layer.name
        reason = "write its function as a layer with keras.ops"
        if not isinstance(layer, keras.layers.Lambda):
            # Keras's own message holds a whole configuration, and then what was the matter.
            lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
            reason = f"{type(error).__name__}: {(lines or [''])[-1]}"
        raise ValueError(
            "every layer must be one that Keras makes again from its get_config; "
            f"received {path!r}, of class {kind} ({reason})"
        ) from None


def _call(layer, *args, **kwargs):
    # Models record `mask=None` of the layers they were built with; Keras's group normalization
    # knows no masks.
    if "mask" not in inspect.signature(layer.call).parameters:
        kwargs.pop("mask", None)
    return layer(*args, **kwargs)


def _copy_all(old, new):
    new.set_weights(old.get_weights())
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()  # It computes with constants, which it makes from its weights here.


@contextlib.contextmanager
def _not_compiled(model):
    """Keeps Keras from compiling the copies too, which not every loss and metric allows."""
    compiled = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.Model) and layer.compiled
    ]
    for part in compiled:
        part.compiled = False
    try:
        yield
    finally:
        for part in compiled:
            part.compiled = True
