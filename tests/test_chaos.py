"""tools/chaos.py: a run killed three times on real workers, the plan, and the comparison."""

import collections
import json
import shutil
import types
import zipfile

import chaos
import h5py
import pytest
from chaos import Kill

from tfadv import checkpoint_files, event_files, models
from tfadv.programs import start

FLAGS = """
    --dataset=digits --network=small_resnet --depth=8 --width=4 --norm=bn --num_steps=2
    --epochs=2 --steps_per_epoch=2 --batch_size=8 --images_per_worker=4 --learning_rate=2
    --warmup_epochs=0 --decay_epochs=1 --eval_num_steps= --strong_eval_num_steps= --image_pairs=0
    --checkpoint_minutes=0.0001
""".split()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The directory of a run of one worker that is never killed."""
    directory = tmp_path_factory.mktemp("chaos") / "undisturbed"
    start.run("train", [*FLAGS, "--images_per_worker=8", f"--run_dir={directory}"])
    return directory


@pytest.fixture
def copy(undisturbed, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(undisturbed, directory)
    assert chaos.compare(directory, undisturbed)["differences"] == []
    return directory


@pytest.mark.slow
def test_a_run_that_was_killed_three_times_equals_the_undisturbed_one(tmp_path):
    pytest.importorskip("horovod")
    expected = tmp_path / "expected"
    assert not chaos.run(expected, FLAGS).killed
    kills = [
        Kill("attack", "step", rank=1, count=4),  # in the second update
        Kill("all-reduce", "waiting", all=True, delay=0.1),
        Kill("renaming", "before"),  # of the epoch's checkpoint, after its records are written
    ]
    killed = chaos.disturb(tmp_path / "run", kills, FLAGS, steps=2, switch=2)
    assert not kills and [kill["kind"] for kill in killed] == ["attack", "all-reduce", "renaming"]
    # A checkpoint follows the first update, but not the second, the last of its epoch.
    assert [kill["updates"] for kill in killed] == [1, 1, 2]
    assert [kill["lost_epochs"] for kill in killed] == [0, 0, 0]
    compared = chaos.compare(tmp_path / "run", expected)
    assert compared["differences"] == [] and compared["differing_bits"] == 0
    # Two epochs' checkpoints and the model: 5,000 parameters, as many momenta, and statistics.
    assert compared["bits"] > 3 * 32 * 10_000
    assert compared["log_lines"] == 2 and compared["points"] > 40
    result = chaos.report(killed, [compared], seconds=60.0)
    assert (result["kills"], result["resumes"], result["updates_done_again"]) == (3, 3, 1)
    text = "3 kills, 3 resumes, 1 runs; lost epochs: 0; updates done again: 1"
    assert text in chaos.table(json.loads(json.dumps(result)))


def test_the_comparison_finds_one_flipped_bit(undisturbed, copy, tmp_path):
    with zipfile.ZipFile(undisturbed / "model.keras") as source:
        source.extractall(tmp_path / "parts")
        with h5py.File(tmp_path / "parts" / "model.weights.h5", "r+") as file:
            value = file["optimizer/vars/3"][()]
            value.reshape(-1).view("uint32")[0] ^= 1
            file["optimizer/vars/3"][...] = value
        with zipfile.ZipFile(copy / "model.keras", "w") as target:
            for name in source.namelist():
                target.write(tmp_path / "parts" / name, name)
            target.comment = source.comment
    compared = chaos.compare(copy, undisturbed)
    assert compared["differing_bits"] == 1
    assert compared["differences"] == ["model.keras, optimizer/vars/3: 1 bits differ"]


def test_the_comparison_finds_a_lost_epoch(undisturbed, copy):
    log = (copy / "log.jsonl").read_text().splitlines(keepends=True)
    (copy / "log.jsonl").write_text(log[0])
    checkpoints = sorted((copy / "checkpoints").glob("epoch-*.keras"))
    checkpoints[-1].unlink()
    (copy / "checkpoints" / ".best.keras.writing").mkdir()
    compared = chaos.compare(copy, undisturbed)
    assert compared["log_lines"] == 1
    for text in (
        "log.jsonl, line 1 is missing",
        f"file checkpoints/{checkpoints[-1].name} is missing",
        "file checkpoints/.best.keras.writing should not be there",
    ):
        assert text in compared["differences"]


def test_the_comparison_finds_damaged_files(undisturbed, copy):
    content = (copy / "model.keras").read_bytes()
    (copy / "model.keras").write_bytes(content[: len(content) // 2])
    differences = "\n".join(chaos.compare(copy, undisturbed)["differences"])
    assert "model.keras, progress is missing" in differences


def test_the_comparison_finds_a_gap_in_tensorboard(undisturbed, copy):
    # As if a resume had skipped an update: step 3 is missing.
    shutil.rmtree(copy / "train" / "adv")
    for step in (1, 2, 4):
        file = event_files.EventFile(copy / "train" / "adv", step - 1)
        file.scalar("loss", 1.0, step)
        file.close()
    differences = chaos.compare(copy, undisturbed)["differences"]
    assert "TensorBoard train/adv, accuracy: steps is missing" in differences
    assert any(
        text.startswith("TensorBoard train/adv, loss: steps: [1, 2, 4] instead of")
        for text in differences
    ), differences


@pytest.mark.parametrize("epoch, step", [(1, 0), (0, 1), (0, 2), (3, 1), (3, 12)])
def test_it_reads_where_a_run_continues(epoch, step):
    line = f"run:         runs/x, continued after {checkpoint_files.Progress(epoch, step)}"
    assert chaos.CONTINUED.search(line).groups() == (
        str(epoch) if epoch else None,
        str(step) if step else None,
    )


def test_a_worker_can_be_killed_at_every_gradient_of_an_attack(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "Frozen", models.Frozen)  # is there again after the test
    moments = []
    chaos.watch_attack(types.SimpleNamespace(reach=lambda *moment: moments.append(moment)))
    start.run("train", [*FLAGS, "--images_per_worker=8", f"--run_dir={tmp_path / 'run'}"])
    # Two epochs of two updates, with two steps each.
    assert moments == 8 * [("attack", "step")]


def test_the_plan_has_every_moment():
    kills = chaos.plan(seed=0)
    counts = collections.Counter(kill.kind for kill in kills)
    assert counts == dict.fromkeys(chaos.MOMENTS, 5) | {"random": 8}
    moments = {(kill.kind, kill.moment) for kill in kills}
    assert moments == {(kind, m) for kind, all_ in chaos.MOMENTS.items() for m in all_}
    assert kills == chaos.plan(seed=0) != chaos.plan(seed=1)


def test_a_kill_at_the_switch_is_chosen_in_the_epoch_of_the_switch():
    def kills():
        return [Kill("switch", "before"), Kill("attack", "step")]

    assert chaos.choose(kills(), 0, 3, switch=3).kind == "attack"  # far from it
    assert chaos.choose(kills(), 2, 1, switch=3).kind == "switch"
    assert chaos.choose(kills(), 3, 0, switch=3).kind == "switch"
    assert chaos.choose(kills(), 3, 1, switch=3).kind == "attack"
    only = kills()[:1]
    assert chaos.choose(only, 3, 1, switch=3) is None and len(only) == 1
    assert chaos.choose(only, 0, 0, switch=3).kind == "switch" and not only
