"""A place in an object store behaves as a local one does, and says what is wrong in one line."""

import os
import pickle
import time

import pytest
from pyarrow.fs import FileInfo, FileType

from study.errors import StudyError
from study.run_folder import paths as place_module
from study.run_folder.paths import ObjectPath, any_path, map_paths, write_atomically

KINDS = ["local", "object store"]


@pytest.fixture(params=KINDS)
def at(request, tmp_path):
    if request.param == "local":
        return tmp_path
    store = request.getfixturevalue("object_store")
    name = f"place-{abs(hash(str(tmp_path)))}"
    store.bucket(name)
    return any_path(f"s3://{name}/run")


@pytest.fixture
def remote(object_store, tmp_path):
    name = f"place-{abs(hash(str(tmp_path)))}"
    object_store.bucket(name)
    return any_path(f"s3://{name}/run")


def names(found):
    return sorted(one.name for one in found)


def test_what_is_written_is_read(at):
    file = at / "a.json"
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    write_atomically(file, b"one")
    write_atomically(file, b"\x00two")
    assert file.exists()
    assert file.read_bytes() == b"\x00two"
    assert file.stat().st_size == 4
    assert names(at.glob("*")) == ["a.json"]


def test_names_are_those_of_paths(at):
    file = at / "trials" / "x" / "trial.parquet"
    assert (file.name, file.stem, file.suffix) == ("trial.parquet", "trial", ".parquet")
    assert file.parent == at / "trials/x"
    assert sorted([at / "b", at / "a"]) == [at / "a", at / "b"]
    assert pickle.loads(pickle.dumps(file)) == file


def test_patterns_find_the_same(at):
    for name in ("trials/b/trial.parquet", "trials/a/val.parquet", "trials/a/x.txt", "top.parquet"):
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(name)
    assert names(at.glob("trials/*")) == ["a", "b"]
    assert names(at.glob("trials/*/*.parquet")) == ["trial.parquet", "val.parquet"]
    assert names(at.glob("*.parquet")) == ["top.parquet"]
    assert names((at / "trials" / "none").glob("*")) == []
    assert (at / "trials").is_dir()
    assert not (at / "none").is_dir()
    assert [f.read_text() for f in sorted(at.glob("trials/a/*"))] == list(
        map_paths(lambda f: f.read_text(), sorted(at.glob("trials/a/*")))
    )


def test_removing_what_is_not_there(at):
    (at / "a").write_text("")
    (at / "a").unlink()
    (at / "a").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (at / "a").unlink()


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "a"
    write_atomically(file, b"old", lasting=True)
    with pytest.raises(TypeError):
        write_atomically(file, "no bytes")
    assert file.read_bytes() == b"old"
    assert names(tmp_path.iterdir()) == ["a"]


def test_a_lasting_file_is_whole_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    file, fsync, synced = tmp_path / "a", os.fsync, []

    def noted(descriptor):
        fsync(descriptor)
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size, file.exists()))

    monkeypatch.setattr(os, "fsync", noted)
    write_atomically(file, b"old")
    assert synced == []
    file.unlink()
    write_atomically(file, b"one", lasting=True)
    assert synced == [(file.stat().st_ino, 3, False)]


def test_a_listing_is_asked_for_once(remote, object_store):
    for name in ("trials/a/trial.parquet", "trials/b/trial.parquet"):
        (remote / name).write_text(name)
    seen = remote.listed()
    before = len(object_store.requests())
    (found,) = seen.glob("trials/a/*")
    assert found.exists()
    assert found.stat().st_size == len("trials/a/trial.parquet")
    assert not (seen / "trials" / "c" / "trial.parquet").exists()
    assert len(object_store.requests()) == before
    (remote / "trials/a/trial.parquet").unlink()
    assert found.exists()
    assert not found.renewed().exists()


class Flat:
    """A store whose listings have no folders, as Google's."""

    def __init__(self, keys):
        self.keys = keys

    def get_file_info(self, selector):
        assert selector.recursive
        at = f"{selector.base_dir}/"
        return [
            FileInfo(k, FileType.File, size=1, mtime_ns=0) for k in self.keys if k.startswith(at)
        ]


def test_folders_are_found_by_what_lies_in_them():
    keys = [f"b/run/trials/{n}/{name}.parquet" for n in range(2000) for name in ("val", "trial")]
    run = ObjectPath("gs", Flat(keys), "b/run")
    start = time.monotonic()
    for at in (run, run.listed()):
        assert len(list(at.glob("trials/*"))) == 2000
        assert len(list(at.glob("trials/*/trial.parquet"))) == 2000
    listed = run.listed()
    assert all(path.is_dir() for path in listed.glob("trials/*"))
    assert not (listed / "trials" / "0" / "val.parquet").is_dir()
    assert time.monotonic() - start < 5


def test_everything_below_is_removed(remote):
    for name in ("x/1", "x/2/3", "y"):
        (remote / name).write_text(name)
    (remote / "x").rmtree()
    assert names(remote.glob("*")) == ["y"]


@pytest.mark.parametrize("address", ["ftp://a/b", "s3://", "s3:///", "s4://a", "s3://a//b"])
def test_addresses_that_are_none(address):
    with pytest.raises(StudyError, match="an address must be"):
        any_path(address)


@pytest.mark.parametrize("address", ["s3://key:secret@bucket/run", "s3://b/r?secret_key=secret"])
def test_an_address_holds_no_secret(address):
    with pytest.raises(StudyError, match="neither options nor a user") as error:
        any_path(address)
    assert "secret" not in str(error.value).partition(";")[0]


def test_a_missing_bucket_is_said_at_once(object_store):
    with pytest.raises(OSError, match="there is no such bucket") as error:
        any_path("s3://nowhere/run/a").write_bytes(b"")
    assert error.value.filename == "s3://nowhere/run/a"


def test_a_store_that_fails_is_asked_again(remote, monkeypatch):
    monkeypatch.setattr(place_module.time, "sleep", lambda seconds: None)
    failures = [OSError("AWS Error NETWORK_CONNECTION")] * 3

    def request():
        if failures:
            raise failures.pop()
        return "answer"

    assert isinstance(remote, ObjectPath)
    assert remote._asked(request) == "answer"
    failures[:] = [OSError("AWS Error NETWORK_CONNECTION")]
    with pytest.raises(OSError, match="does not answer as it should"):
        remote.within(0)._asked(request)


@pytest.mark.parametrize(
    "address", ["s3:/bucket/run", "gs:bucket", "S3://bucket/run", "file:///run"]
)
def test_an_address_that_would_become_a_local_folder_is_refused(address):
    with pytest.raises(StudyError, match=r"two slashes, as s3://; fix it|must be a path, or s3://"):
        any_path(address)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert any_path("~/runs") == tmp_path / "runs"
    assert any_path("~nobody-of-that-name/runs") == type(tmp_path)("~nobody-of-that-name/runs")


def test_a_file_of_the_longest_name_is_written_whole(tmp_path):
    write_atomically(tmp_path / ("x" * 255), b"whole")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"whole"]


def test_a_path_that_is_no_text_is_refused_in_one_line(tmp_path, monkeypatch):
    """As of a folder with an old encoding, or of any accent where the locale is C."""
    folder = tmp_path / os.fsdecode(b"l\xe4ufe")
    rule = r"l\\udce4ufe.*: a path must be UTF-8, .*; rename it, or set PYTHONUTF8=1"
    with pytest.raises(StudyError, match=rule):
        any_path(folder)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(StudyError, match=rule):
        any_path("run")
    assert any_path(tmp_path / "läufe") == tmp_path / "läufe"
