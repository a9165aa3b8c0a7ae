"""The HPARAMS tab, by the plugin's own backend and real event files."""

from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.context import RequestContext
from tensorboard.data import provider
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from tfadv.callbacks import HyperParameters
from tfadv.event_files import EventFile

METRICS = [("validation", "accuracy/pgd10"), ("evaluation", "accuracy/pgd500")]


def train(directory, values, to_its_end=True):
    callback = HyperParameters(directory, values, METRICS, first=["norm", "epsilon"])
    callback.on_train_begin()
    if to_its_end:
        callback.on_train_end()


def table(directory):
    """Returns the tab's content: the columns with their types, and the rows by the norm."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(directory))
    multiplexer.Reload()
    data = data_provider.MultiplexerDataProvider(multiplexer, str(directory))
    backend = backend_context.Context(base_plugin.TBContext(data_provider=data))
    context = RequestContext()
    nothing = provider.ListHyperparametersResult(hyperparameters=[], session_groups=[])
    experiment = backend.experiment_from_metadata(
        context, "", True, backend.hparams_metadata(context, ""), nothing
    )
    request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=10, include_metrics=True)
    for info in experiment.metric_infos:
        request.col_params.add(metric=info.name)
    request.allowed_statuses.extend(api_pb2.Status.values())
    rows = list_session_groups.Handler(context, backend, "", request).run().session_groups
    assert [len(row.sessions) for row in rows] == [1] * len(rows)
    columns = {info.name: api_pb2.DataType.Name(info.type) for info in experiment.hparam_infos}
    shown = [(info.name.group, info.name.tag) for info in experiment.metric_infos]
    assert shown == METRICS  # in this order
    assert experiment.metric_infos[0].display_name == "validation accuracy pgd10"
    return columns, {row.hparams["norm"].string_value: row for row in rows}


def test_runs_stand_in_one_table_with_their_metrics(tmp_path):
    names = ("norm", "epsilon", "adversarial", "num_steps")
    train(tmp_path / "a", dict(zip(names, ("mbn", 16.0, True, 30), strict=True)))
    train(tmp_path / "b", dict(zip(names, ("bn", 8.0, False, 10), strict=True)), to_its_end=False)
    for (run, tag), value in zip(METRICS, (0.5, 0.25), strict=True):
        file = EventFile(tmp_path / "a" / run, 0)
        file.scalar(tag, 1.0, 6)
        file.scalar(tag, value, 9)
        file.close()
    columns, rows = table(tmp_path)
    # As the tab orders them: those that are to come first, and the others, each by name.
    assert list(columns) == ["epsilon", "norm", "adversarial", "num_steps"]
    assert {row.sessions[0].name for row in rows.values()} == {"a", "b"}  # the Trial IDs
    assert columns == {
        "norm": "DATA_TYPE_STRING",
        "epsilon": "DATA_TYPE_FLOAT64",
        "adversarial": "DATA_TYPE_BOOL",
        "num_steps": "DATA_TYPE_FLOAT64",
    }
    values = {norm: dict(row.hparams) for norm, row in rows.items()}
    assert values["mbn"]["epsilon"].number_value == 16 and values["bn"]["epsilon"].number_value == 8
    assert values["mbn"]["num_steps"].number_value == 30
    assert [values[norm]["adversarial"].bool_value for norm in ("mbn", "bn")] == [True, False]
    metrics = {(m.name.group, m.name.tag): m.value for m in rows["mbn"].metric_values}
    assert metrics == dict(zip(METRICS, (0.5, 0.25), strict=True))  # the last values
    status = {norm: row.sessions[0].status for norm, row in rows.items()}
    assert status == {"mbn": api_pb2.STATUS_SUCCESS, "bn": api_pb2.STATUS_UNKNOWN}


def test_a_resumed_run_is_still_one_row(tmp_path):
    train(tmp_path / "a", {"norm": "gn"}, to_its_end=False)
    train(tmp_path / "a", {"norm": "gn"})
    _, rows = table(tmp_path)
    assert list(rows) == ["gn"]
    assert rows["gn"].sessions[0].status == api_pb2.STATUS_SUCCESS
