"""Notes and deletion: atomic, never outside the root, never a run that trains."""

import os

import pytest

from advisor.errors import InputError
from trainer import keeping, process, record, runs


@pytest.fixture
def run_dir(tmp_path):
    return runs.create_run("one", plan=None, arguments={"train_file": "x"}, root=tmp_path)


def test_notes_are_kept_beside_the_run(run_dir):
    assert keeping.read_notes(run_dir) == ""
    keeping.write_notes(run_dir, "first\nzweite Zeile é")
    assert keeping.read_notes(run_dir) == "first\nzweite Zeile é"
    assert (run_dir / keeping.NOTES).read_text(encoding="utf-8").startswith("first")
    keeping.write_notes(run_dir, "")
    assert keeping.read_notes(run_dir) == ""


def test_failed_write_keeps_the_old_notes(run_dir, monkeypatch):
    keeping.write_notes(run_dir, "old")

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="is full"):
        keeping.write_notes(run_dir, "new")
    assert keeping.read_notes(run_dir) == "old"
    assert [p.name for p in run_dir.glob(f".{keeping.NOTES}*")] == []


def test_notes_too_long_or_of_no_run_are_refused(run_dir, tmp_path):
    with pytest.raises(InputError, match="at most 10,000"):
        keeping.write_notes(run_dir, "x" * 10_001)
    with pytest.raises(InputError, match="is no run"):
        keeping.write_notes(tmp_path, "x")


def test_deleted_run_is_gone_and_what_its_links_point_to_stays(run_dir, tmp_path):
    outside = tmp_path / "weights"
    outside.mkdir()
    (outside / "model.safetensors").write_text("precious")
    (run_dir / "checkpoints").symlink_to(outside)
    (run_dir / "file").symlink_to(outside / "model.safetensors")
    keeping.delete(run_dir.name, tmp_path)
    assert not run_dir.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]
    assert (outside / "model.safetensors").read_text() == "precious"


@pytest.mark.parametrize("name", ["", ".", "..", "../one", "a/b", ".deleted-x", "/etc"])
def test_only_a_name_in_the_root_is_deleted(run_dir, tmp_path, name):
    with pytest.raises(InputError, match="not the name"):
        keeping.delete(name, tmp_path)
    assert run_dir.exists()


def test_link_to_a_run_is_not_deleted(run_dir, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(run_dir)
    with pytest.raises(InputError, match="is a link to"):
        keeping.delete("linked", root)
    assert run_dir.exists()


def test_directory_that_is_no_run_is_not_deleted(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="is no run"):
        keeping.delete("photos", tmp_path)
    assert (tmp_path / "photos").exists()


def test_running_one_is_not_deleted(run_dir, tmp_path):
    record.update(run_dir, trainer=process.identify(os.getpid()))
    with pytest.raises(InputError, match="is running"):
        keeping.delete(run_dir.name, tmp_path)
    assert run_dir.exists()


def test_deletion_that_was_cut_is_not_listed_and_ends_with_the_next(run_dir, tmp_path):
    cut = run_dir.rename(tmp_path / ".deleted-abc")
    assert runs.list_runs(tmp_path) == []
    other = runs.create_run("two", plan=None, arguments={"train_file": "x"}, root=tmp_path)
    keeping.delete(other.name, tmp_path)
    assert not cut.exists()


def test_size_counts_files_not_links(run_dir, tmp_path):
    before = keeping.size_bytes(run_dir)
    (run_dir / "weights").write_bytes(b"x" * 5000)
    big = tmp_path / "big"
    big.write_bytes(b"x" * 100_000)
    (run_dir / "link").symlink_to(big)
    assert 5000 <= keeping.size_bytes(run_dir) - before < 6000
