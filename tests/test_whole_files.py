import errno
import os

import pytest

from tfadv import whole_files


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_files.aside(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.name == "a.txt"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there_and_names_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match=f"No space left on device: '{path}'") as raised:
        with whole_files.aside(path) as temporary:
            temporary.write_text("ne")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert raised.value.errno == errno.ENOSPC
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match=f"unable to write: '{path}'"):  # as h5py says it
        with whole_files.aside(path):
            raise OSError("unable to write")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(OSError, match=f"{os.strerror(number)}: '.*a.txt'"):
        whole_files.write_text(tmp_path / "a.txt", "new")


def test_a_missing_folder_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*gone/a.txt'"):
        whole_files.write_text(tmp_path / "gone" / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    path = tmp_path / "a.txt"
    for name in ("a.txt", "b.txt"):
        (tmp_path / f".{name}.writing").mkdir()
        (tmp_path / f".{name}.writing" / "tmp3k9x").touch()
    whole_files.write_text(path, "new")  # the next writer of the same file
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.txt.writing", "a.txt"]
    (tmp_path / ".writing").touch()
    whole_files.remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".writing", "a.txt"]


def test_the_sha256_of_a_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")  # an example of FIPS 180-2
    assert whole_files.sha256(path) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    path.write_bytes(b"a" * 10**6)  # another one
    assert whole_files.sha256(path) == (
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    )
