"""tools/chaos.py: three of its kills on real workers, its plan, and that its comparison sees."""

import collections
import json
import shutil
import zipfile

import chaos
import chaos_compare
import chaos_plan
import h5py
import pytest
from chaos_plan import Kill

FLAGS = """
    --dataset=digits --network=small_resnet --depth=8 --width=4 --norm=bn --num_steps=2
    --epochs=2 --steps_per_epoch=2 --batch_size=8 --images_per_worker=4 --learning_rate=2
    --warmup_epochs=0 --decay_epochs=1 --eval_num_steps= --strong_eval_num_steps= --image_pairs=0
    --checkpoint_minutes=0.0001
""".split()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    pytest.importorskip("horovod")
    directory = tmp_path_factory.mktemp("chaos") / "undisturbed"
    chaos.undisturbed(directory, FLAGS, horovodrun=False)
    return directory


def test_a_run_that_was_killed_three_times_leaves_what_another_leaves(undisturbed, tmp_path):
    kills = [
        Kill("attack", "step", rank=1, count=4),  # in the second update
        Kill("all-reduce", "waiting", all=True, delay=0.1),
        Kill("renaming", "before"),  # of the epoch's, whose records are there
    ]
    done = chaos.disturb(tmp_path / "run", kills, FLAGS, switch=2, horovodrun=False)
    assert not kills and [kill["kind"] for kill in done] == ["attack", "all-reduce", "renaming"]
    # The first update is the first checkpoint; the second, the last of its epoch, has none.
    assert [kill["updates"] for kill in done] == [1, 1, 2]
    assert [kill["lost_epochs"] for kill in done] == [0, 0, 0]
    found = chaos_compare.compare(tmp_path / "run", undisturbed)
    assert found["differences"] == [] and found["differing_bits"] == 0
    # Two epochs' checkpoints and the model: 5,000 parameters, as many momenta, and statistics.
    assert found["bits"] > 3 * 32 * 10_000 and found["log_lines"] == 2 and found["points"] > 40
    result = chaos.report(done, [found], seconds=60.0)
    assert (result["kills"], result["resumes"], result["updates_done_again"]) == (3, 3, 1)
    assert "3 kills, 3 resumes, 1 runs; lost epochs: 0; updates done again: 1" in chaos.table(
        result
    )


def test_the_comparison_sees_one_bit_and_one_line(undisturbed, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(undisturbed, again)
    assert chaos_compare.compare(again, undisturbed)["differences"] == []

    def flip(path):
        with h5py.File(path, "r+") as file:
            value = file["optimizer/vars/3"][()]
            value.reshape(-1).view("uint32")[0] ^= 1
            file["optimizer/vars/3"][...] = value

    with zipfile.ZipFile(undisturbed / "model.keras") as source:
        source.extractall(tmp_path / "parts")
        flip(tmp_path / "parts" / "model.weights.h5")
        with zipfile.ZipFile(again / "model.keras", "w") as target:
            for name in source.namelist():
                target.write(tmp_path / "parts" / name, name)
            target.comment = source.comment
    (again / "checkpoints" / ".best.keras.writing").mkdir()
    log = again / "log.jsonl"
    log.write_text(log.read_text() * 2)
    shutil.rmtree(again / "tensorboard" / "adv")
    found = chaos_compare.compare(again, undisturbed)
    assert found["differing_bits"] == 1 and found["log_lines"] == 4
    texts = "\n".join(found["differences"])
    for text in (
        ".best.keras.writing",
        "model.keras: 1 bits of optimizer/vars/3",
        "log.jsonl: ",
        "TensorBoard: ('adv', 'loss')",
    ):
        assert text in texts


def test_the_plan_has_what_was_promised():
    kills = chaos_plan.plan(seed=0)
    counts = collections.Counter(kill.kind for kill in kills)
    assert counts == dict.fromkeys(chaos_plan.MOMENTS, 5) | {"random": 8}
    moments = {(kill.kind, kill.moment) for kill in kills}
    assert moments == {(kind, m) for kind, all_ in chaos_plan.MOMENTS.items() for m in all_}
    assert kills == chaos_plan.plan(seed=0) != chaos_plan.plan(seed=1)
    assert Kill(**json.loads(kills[0].dump())) == kills[0]


def test_the_switch_is_killed_where_it_is():
    def left():
        return [Kill("switch", "before"), Kill("attack", "step")]

    assert chaos_plan.choose(left(), 0, 3, switch=3).kind == "attack"  # far from it
    assert chaos_plan.choose(left(), 2, 1, switch=3).kind == "switch"
    assert chaos_plan.choose(left(), 3, 0, switch=3).kind == "switch"
    assert chaos_plan.choose(left(), 3, 1, switch=3).kind == "attack"
    only = left()[:1]
    assert chaos_plan.choose(only, 3, 1, switch=3) is None and len(only) == 1
    assert chaos_plan.choose(only, 0, 0, switch=3).kind == "switch" and not only
