"""Files that are there whole or not at all, what a killed process leaves beside them, and a system that refuses folders."""

import os
import signal
import stat

import pytest
from stable_baselines3 import PPO

from sb3_snd.runs import log_files
from sb3_snd.runs.checkpoint_files import save_atomically
from sb3_snd.runs.checkpoints import RunCheckpoint
from sb3_snd.runs.log_files import atomic_write, delete_event_files, log_sizes, remove_unfinished, truncate_logs


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(OSError, match="full"), atomic_write(path) as file:
        file.write(b"half")
        raise OSError("the disk is full")
    assert path.read_text() == "before" and [entry.name for entry in tmp_path.iterdir()] == ["file"]
    with atomic_write(path) as file:
        file.write(b"after")
    assert path.read_text() == "after" and path.stat().st_mode & 0o777 == 0o644


def killed_while(writing):
    """In a process of its own, which ends at the moment of renaming. :return: the signal that ended it"""
    pid = os.fork()
    if pid == 0:
        log_files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        try:
            writing()
        finally:
            os._exit(1)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    (tmp_path / "ENV-v1").mkdir()
    (tmp_path / "monitor.csv").write_text("#\nr,l,t\n1,2,3\n")
    (tmp_path / "progress.csv").write_text("a\n1\n")

    def write_statistics():
        with atomic_write(tmp_path / "ENV-v1" / "vecnormalize.pkl") as file:
            file.write(b"statistics")

    for writing in (
        lambda: save_atomically(model, tmp_path / "rl_model_64_steps.zip"),
        lambda: save_atomically(model, tmp_path / "ENV-v1.zip"),
        write_statistics,
    ):
        assert killed_while(writing) == signal.SIGKILL
    left = [path for path in tmp_path.rglob(".*") if path.is_file()]
    assert len(left) == 3 and max(path.stat().st_size for path in left) > 10_000
    others = [".nfs0001", ".hidden.zip", ".rl_model_64_steps.zip.too_long_a_name", "run.zip.abcd1234", "ENV-v1/.gitignore"]
    for name in others:
        (tmp_path / name).touch()
    RunCheckpoint(tmp_path, 0, [], {})  # a run begins or goes on here
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "monitor.csv",
        "progress.csv",
        *others,
    }
    remove_unfinished(tmp_path / "not there")


def refuse_folders(monkeypatch):
    """As Windows does."""
    original = os.open

    def refusing(path, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(log_files.os, "open", refusing)


def test_a_system_that_opens_no_folder(tmp_path, monkeypatch):
    refuse_folders(monkeypatch)
    with pytest.raises(PermissionError):
        os.open(tmp_path, os.O_RDONLY)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1


def test_a_file_system_that_forces_no_folder_to_the_disk(tmp_path, monkeypatch):
    original = os.fsync

    def refusing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        original(descriptor)

    monkeypatch.setattr(log_files.os, "fsync", refusing)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_files_that_somebody_has_open_on_windows(tmp_path, monkeypatch):
    """They can be neither removed nor cut there, which is no reason to end a run."""
    tensorboard = tmp_path / "tb"
    tensorboard.mkdir()
    kept, later = tensorboard / "events.out.tfevents.1", tensorboard / "events.out.tfevents.2"
    kept.write_text("12345")
    sizes = log_sizes(tmp_path, str(tensorboard))
    assert sizes == {os.path.join("tb", kept.name): 5}
    kept.write_text("123456789")
    later.touch()
    (tmp_path / ".rl_model_8_steps.zip.abcd1234").touch()

    def refuse(*_, **__):
        raise PermissionError(13, "The process cannot access the file because it is being used by another process")

    with monkeypatch.context() as patch:
        patch.setattr(log_files.os, "truncate", refuse)
        patch.setattr(type(tmp_path), "unlink", refuse)
        truncate_logs(tmp_path, sizes)
        delete_event_files(tmp_path)
        remove_unfinished(tmp_path)
    assert later.exists() and kept.read_text() == "123456789"
    truncate_logs(tmp_path, sizes)
    assert not later.exists() and kept.read_text() == "12345"


def test_logs_on_another_drive(tmp_path, monkeypatch):
    """On Windows there is no path from one drive to another."""
    (tmp_path / "run").mkdir()
    (tmp_path / "tb").mkdir()
    events = tmp_path / "tb" / "events.out.tfevents.1"
    events.write_text("12345")

    def refuse(*_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(log_files.os.path, "relpath", refuse)
    sizes = log_sizes(tmp_path / "run", str(tmp_path / "tb"))
    events.write_text("123456789")
    truncate_logs(tmp_path / "run", sizes)
    assert events.read_text() == "12345"
