"""The HPARAMS tab, by the plugin's own backend and real event files."""

import keras
import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.context import RequestContext
from tensorboard.data import provider
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from tfadv.callbacks import HyperParameters


def run(directory, values, accuracy):
    callback = HyperParameters(directory, values, [("validation/acc", ""), ("acc", "evaluation")])
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones([2, 1]), np.ones([2, 1]), verbose=0, callbacks=[callback])
    for part, tag, value in (("", "validation/acc", accuracy), ("evaluation", "acc", accuracy / 2)):
        writer = tf.summary.create_file_writer(str(directory / part))
        with writer.as_default(step=7):
            tf.summary.scalar(tag, value)
        writer.close()


def test_runs_stand_in_one_table_with_their_metrics(tmp_path):
    run(tmp_path / "a", {"norm": "mbn", "epsilon": 16.0, "adversarial": True, "steps": 30}, 0.5)
    run(tmp_path / "b", {"norm": "bn", "epsilon": 8.0, "adversarial": False, "steps": 10}, 0.25)
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    data = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = base_plugin.TBContext(data_provider=data)
    backend = backend_context.Context(context)
    request_context = RequestContext()
    experiment = backend.experiment_from_metadata(
        request_context,
        "",
        True,
        backend.hparams_metadata(request_context, ""),
        provider.ListHyperparametersResult(hyperparameters=[], session_groups=[]),
    )
    assert {info.name for info in experiment.hparam_infos} == {
        "norm", "epsilon", "adversarial", "steps"
    }  # fmt: skip
    request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=10, include_metrics=True)
    for info in experiment.metric_infos:
        request.col_params.add(metric=info.name)
    request.allowed_statuses.extend(
        [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING, api_pb2.STATUS_SUCCESS]
    )
    groups = list_session_groups.Handler(
        request_context, backend, "", request
    ).run().session_groups  # fmt: skip
    found = {
        group.hparams["norm"].string_value: (
            group.hparams["epsilon"].number_value,
            {(m.name.group, m.name.tag): m.value for m in group.metric_values},
        )
        for group in groups
    }
    assert found == {
        "mbn": (16.0, {("", "validation/acc"): 0.5, ("evaluation", "acc"): 0.25}),
        "bn": (8.0, {("", "validation/acc"): 0.25, ("evaluation", "acc"): 0.125}),
    }
