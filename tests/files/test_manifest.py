"""Files as the catalogue lists them: one spelling, sizes, times, checksums, and the ingestor's own files."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from scicat_dagster.config.models import FileHandlingSettings
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files.description import describe_file
from scicat_dagster.files.manifest import FileDescription, Sidecar
from scicat_dagster.files.paths import canonical_path
from scicat_dagster.files.sidecars import add_sidecars, sidecar_directory, write_sidecars

CONTENT = b"\x89HDF\r\n" + bytes(range(256)) * 9000
"""More than two of the chunks in which files are read, and no whole number of them."""

ANNOUNCEMENT: dict[str, Any] = {
    "job_id": "j-1",
    "file_path": "/data/run.hdf",
    "metadata": {"name": "Könnecke"},
}


def handling(**changes: Any) -> FileHandlingSettings:
    return FileHandlingSettings.model_validate(changes)


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    path = tmp_path / "raw" / "run 1 #2 100% Köln.hdf"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@contextmanager
def touched_all_the_time(path: Path, change: Callable[[int], None]) -> Iterator[None]:
    """Somebody else changes the file, again and again, from before the body begins until after it ends."""
    stop, began = threading.Event(), threading.Event()

    def work() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            change(count)
            began.set()

    worker = threading.Thread(target=work)
    worker.start()
    assert began.wait(10)
    try:
        yield
    finally:
        stop.set()
        worker.join()


# --- Paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/run.hdf", "/data/run.hdf"),
        ("//data//odin/run.hdf", "/data/odin/run.hdf"),
        ("///data/run.hdf", "/data/run.hdf"),
        ("/data/./run.hdf", "/data/run.hdf"),
        ("/data/..run/run..hdf", "/data/..run/run..hdf"),
        ("/data/odin/../dream/run.hdf", "/data/dream/run.hdf"),
        ("/data/../../run.hdf", "/run.hdf"),
        ("/data/x/./../run.hdf", "/data/run.hdf"),
        ("/data/a b#c%20d/Köln.hdf", "/data/a b#c%20d/Köln.hdf"),
    ],
)
def test_a_path_has_one_spelling(text: str, expected: str) -> None:
    assert canonical_path(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not absolute"),
        ("run.hdf", "not absolute"),
        ("./run.hdf", "not absolute"),
        ("../run.hdf", "not absolute"),
        ("/..", "directory"),
        ("/data/odin/..", "directory"),
        ("/data/run\0.hdf", "control characters"),
        ("/data/run\n.hdf", "control characters"),
        ("/data/run\x7f.hdf", "control characters"),
        ("/data/\ud800.hdf", "control characters"),
        ("/data/a...b", "partition key"),
        ("/", "directory"),
        ("//.//", "directory"),
        ("/data/", "directory"),
        ("/data/.", "directory"),
        ("/data/" + "n" * 256, "longer"),
        ("/data/" + "ö" * 128, "longer"),
        ("/d" * 2049, "longer"),
    ],
)
def test_what_could_mean_two_things_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        canonical_path(text)


def test_the_longest_name_is_accepted() -> None:
    assert canonical_path("/data/" + "n" * 255) == "/data/" + "n" * 255


@pytest.mark.parametrize(
    ("text", "data_directory", "inside"),
    [
        ("/data/run.hdf", "/data", True),
        ("/data/run.hdf", "/data/", True),
        ("/data/run.hdf", "/", True),
        ("/data/run.hdf", "/data/x/..", True),
        ("/data/run.hdf", "//data", True),
        ("//data/run.hdf", "/data", True),
        ("/database/run.hdf", "/data", False),
        ("/run.hdf", "/data", False),
        ("/data/x/../run.hdf", "/data", True),
        ("/x/../data/run.hdf", "/data", True),
        ("/data/../run.hdf", "/data", False),
        ("/data/x/../../database/run.hdf", "/data", False),
    ],
)
def test_a_path_lies_inside_the_data_directory_or_is_refused(
    text: str, data_directory: str, inside: bool
) -> None:
    if inside:
        assert canonical_path(text, data_directory).endswith("/run.hdf")
    else:
        with pytest.raises(ValueError, match="outside the data directory"):
            canonical_path(text, data_directory)


def test_symbolic_links_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert canonical_path(f"{tmp_path}/link/run.hdf") == f"{tmp_path}/link/run.hdf"


@settings(max_examples=200)
@given(st.text(alphabet=st.sampled_from("/.ab \\:%#é\0\n\x85"), max_size=20).map(lambda text: "/" + text))
@example("//./a")
@example("/a/.")
def test_a_canonical_path_is_its_own_canonical_path(text: str) -> None:
    try:
        once = canonical_path(text)
    except ValueError:
        assume(condition=False)
    assert canonical_path(once) == once
    assert once.startswith("/")
    assert not once.startswith("//")
    assert os.path.normpath(once) == once
    assert "\0" not in once
    assert ".." not in once.split("/")


# --- The data file


def test_a_file_is_described_by_its_path_size_time_and_owner(data_file: Path) -> None:
    os.utime(data_file, ns=(0, 1_730_106_401_376_999_999))
    data_file.chmod(0o444)
    described = describe_file(data_file, handling()).data_file
    assert described.path == str(data_file)
    assert described.size == len(CONTENT)
    assert described.time in {"2024-10-28T09:06:41.376Z", "2024-10-28T09:06:41.377Z"}
    assert described.uid == str(os.getuid())
    assert described.gid == str(data_file.stat().st_gid)
    assert described.perm == "0o100444"


def test_owner_and_rights_are_left_out_where_file_stats_are_not_wanted(data_file: Path) -> None:
    found = describe_file(data_file, handling(compute_file_stats=False), ANNOUNCEMENT)
    for described in found.all_files:
        assert described.uid is described.gid is described.perm is None
        assert described.size > 0
        assert described.time


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, len(CONTENT)])
@pytest.mark.parametrize("algorithm", ["blake2b", "sha256", "blake3"])
def test_a_checksum_is_the_same_whatever_the_size(tmp_path: Path, algorithm: str, size: int) -> None:
    path = tmp_path / "run.hdf"
    path.write_bytes(CONTENT[:size])
    content = CONTENT[:size]
    expected = (blake3(content) if algorithm == "blake3" else hashlib.new(algorithm, content)).hexdigest()
    described = describe_file(path, handling(file_hash_algorithm=algorithm))
    assert described.data_file.chk == expected
    assert described.checksum_algorithm == algorithm


@pytest.mark.parametrize(
    "algorithm", sorted(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake_"))
)
def test_a_checksum_is_that_of_hashlib(data_file: Path, algorithm: str) -> None:
    expected = hashlib.new(algorithm, CONTENT).hexdigest()
    found = describe_file(data_file, handling(file_hash_algorithm=algorithm))
    assert found.data_file.chk == expected
    assert found.sidecars[0].content == expected


def test_without_checksums_there_is_none_and_no_file_of_it(data_file: Path) -> None:
    found = describe_file(data_file, handling(compute_file_hash=False), ANNOUNCEMENT)
    assert found.checksum_algorithm is None
    assert [file.chk for file in found.all_files] == [None, None]
    assert [Path(sidecar.path).suffix for sidecar in found.sidecars] == [".json"]


# --- What can go wrong while a file is read


def test_a_file_that_is_touched_while_it_is_hashed_is_not_described(tmp_path: Path) -> None:
    path = tmp_path / "run.hdf"
    path.touch()
    os.truncate(path, 64 << 20)
    with (
        touched_all_the_time(path, lambda count: os.utime(path, ns=(0, count))),
        pytest.raises(TransientError, match="changed while it was read"),
    ):
        describe_file(path, handling())


def test_a_file_that_grows_while_it_is_hashed_is_not_described(tmp_path: Path) -> None:
    path = tmp_path / "run.hdf"
    path.touch()
    os.truncate(path, 64 << 20)

    def grow(count: int) -> None:
        os.truncate(path, (64 << 20) + count)
        # Some file systems keep times so coarse that they do not show it.
        os.utime(path, ns=(0, 0))

    with (
        touched_all_the_time(path, grow),
        pytest.raises(TransientError, match="changed while it was read"),
    ):
        describe_file(path, handling())


def test_a_missing_file_is_worth_another_try(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=r"run\.hdf cannot be used: No such file"):
        describe_file(tmp_path / "run.hdf", handling())


def test_what_is_no_regular_file_is_not_described_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/null")):
        with pytest.raises(PermanentError, match="not a regular file"):
            describe_file(path, handling())


# --- The ingestor's own files


@pytest.mark.parametrize(
    ("written", "expected"),
    [("../ingestor", "{0}/ingestor"), (".", "{0}/raw"), ("a/b", "{0}/raw/a/b"), ("/var/x/../y", "/var/y")],
)
def test_the_folder_is_relative_to_that_of_the_file(data_file: Path, written: str, expected: str) -> None:
    found = sidecar_directory(data_file, handling(ingestor_files_directory=written))
    assert str(found) == expected.format(data_file.parents[1])


def test_checksum_and_announcement_are_planned_beside_the_file(data_file: Path) -> None:
    found = describe_file(data_file, handling(), ANNOUNCEMENT)
    folder = data_file.parents[1] / "ingestor"
    assert [sidecar.path for sidecar in found.sidecars] == [
        f"{folder}/{data_file.name}.b2b",
        f"{folder}/{data_file.name}.message.json",
        f"{folder}/{data_file.name}.message.json.b2b",
    ]
    checksum, message, message_checksum = (sidecar.content for sidecar in found.sidecars)
    assert checksum == found.data_file.chk
    assert json.loads(message) == ANNOUNCEMENT
    assert "Könnecke" in message
    assert message_checksum == hashlib.blake2b(message.encode()).hexdigest()


def test_the_catalogue_lists_the_data_file_first_and_then_the_others_as_they_will_be(data_file: Path) -> None:
    found = describe_file(data_file, handling(), ANNOUNCEMENT)
    before = datetime.now(UTC) - timedelta(minutes=5)
    assert [file.path for file in found.all_files] == [
        str(data_file),
        *(sidecar.path for sidecar in found.sidecars),
    ]
    for listed, sidecar in zip(found.sidecar_files, found.sidecars, strict=True):
        assert listed.size == len(sidecar.content.encode())
        assert before < datetime.fromisoformat(listed.time) < before + timedelta(minutes=10)
        assert listed.uid == str(os.getuid())
        assert listed.perm == "0o100644"
    assert found.sidecar_files[1].chk == found.sidecars[2].content


@pytest.mark.parametrize(
    ("changes", "announcement", "suffixes"),
    [
        ({}, None, ["b2b"]),
        ({}, ANNOUNCEMENT, ["b2b", "message.json", "message.json.b2b"]),
        ({"save_file_hash": False}, ANNOUNCEMENT, ["message.json"]),
        ({"save_file_hash": False}, None, []),
        ({"message_to_file": False}, ANNOUNCEMENT, ["b2b"]),
        ({"compute_file_hash": False}, ANNOUNCEMENT, ["message.json"]),
        ({"hash_file_extension": "sum"}, ANNOUNCEMENT, ["sum", "message.json", "message.json.sum"]),
    ],
)
def test_the_settings_say_which_files_are_written(
    data_file: Path, changes: dict[str, Any], announcement: dict[str, Any] | None, suffixes: list[str]
) -> None:
    found = describe_file(data_file, handling(**changes), announcement)
    names = [Path(sidecar.path).name for sidecar in found.sidecars]
    assert names == [f"{data_file.name}.{suffix}" for suffix in suffixes]
    write_sidecars(found)
    for listed in found.sidecar_files:
        content = Path(listed.path).read_bytes()
        assert listed.size == len(content)
        if listed.chk:
            assert listed.chk == hashlib.blake2b(content).hexdigest()


@pytest.mark.parametrize("extension", ["message.json", "json", "wrdn", "a.b.c"])
def test_no_two_of_the_files_have_one_name(data_file: Path, extension: str) -> None:
    found = describe_file(data_file, handling(message_file_extension=extension), ANNOUNCEMENT)
    assert len(found.sidecars) == 3
    assert len({sidecar.path for sidecar in found.sidecars}) == 3


def test_describing_writes_nothing(data_file: Path) -> None:
    describe_file(data_file, handling(), ANNOUNCEMENT)
    assert [path.name for path in data_file.parents[1].rglob("*")] == ["raw", data_file.name]


def test_the_files_are_written_whole_and_their_folder_is_made(data_file: Path) -> None:
    found = describe_file(data_file, handling(ingestor_files_directory="../not/yet/there"), ANNOUNCEMENT)
    write_sidecars(found)
    folder = data_file.parents[1] / "not" / "yet" / "there"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        Path(sidecar.path).name for sidecar in found.sidecars
    )
    for sidecar in found.sidecars:
        assert Path(sidecar.path).read_bytes() == sidecar.content.encode()


@pytest.fixture
def hardened() -> Iterator[None]:
    """The umask of the service."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.parametrize("folder_mode", [0o755, 0o2775])
def test_the_files_are_as_the_catalogue_lists_them_whatever_the_umask(
    data_file: Path, hardened: None, folder_mode: int
) -> None:
    above = data_file.parents[1]
    if os.geteuid() == 0:
        os.chown(above, -1, 12345)
    above.chmod(folder_mode)
    found = describe_file(data_file, handling(ingestor_files_directory="../a/b"), ANNOUNCEMENT)
    earlier = Path(found.sidecars[0].path)
    earlier.parent.mkdir(parents=True)
    earlier.write_text(found.sidecars[0].content)

    write_sidecars(found)

    for listed in found.sidecar_files:
        status = Path(listed.path).stat()
        assert (listed.perm, listed.uid, listed.gid, listed.size) == (
            oct(status.st_mode),
            str(status.st_uid),
            str(status.st_gid),
            status.st_size,
        )


def test_the_folder_that_is_made_can_be_entered_by_others(data_file: Path, hardened: None) -> None:
    write_sidecars(describe_file(data_file, handling(ingestor_files_directory="../a/b")))

    made = data_file.parents[1] / "a"
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (made, made / "b")] == [0o755, 0o755]


def test_adding_writes_what_is_missing_and_leaves_what_is_there(data_file: Path) -> None:
    first = describe_file(data_file, handling())
    add_sidecars(first)
    checksum = Path(first.sidecars[0].path)
    data_file.write_bytes(b"something else")
    second = describe_file(data_file, handling(), ANNOUNCEMENT)

    add_sidecars(second)

    assert checksum.read_text() == first.sidecars[0].content != second.sidecars[0].content
    assert all(Path(sidecar.path).exists() for sidecar in second.sidecars)


def test_writing_what_is_there_leaves_it_alone(data_file: Path) -> None:
    found = describe_file(data_file, handling(), ANNOUNCEMENT)
    write_sidecars(found)
    before = [Path(sidecar.path).stat().st_ino for sidecar in found.sidecars]

    write_sidecars(found)

    assert [Path(sidecar.path).stat().st_ino for sidecar in found.sidecars] == before


def test_writing_again_replaces_a_file_and_never_cuts_one_that_is_being_read(data_file: Path) -> None:
    found = describe_file(data_file, handling())
    write_sidecars(found)
    path = Path(found.sidecars[0].path)
    with path.open() as reader:
        other = found.model_copy(update={"sidecars": (Sidecar(path=str(path), content="short"),)})
        write_sidecars(other)
        assert reader.read() == found.sidecars[0].content
    assert path.read_text() == "short"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_that_cannot_be_written_leaves_nothing_behind_and_says_its_path(data_file: Path) -> None:
    found = describe_file(data_file, handling())
    path = Path(found.sidecars[0].path)
    # A folder of that name cannot be replaced by a file, not even by root.
    (path / "occupied").mkdir(parents=True)
    with pytest.raises(TransientError, match="cannot be used"):
        write_sidecars(found)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_made_is_worth_another_try(data_file: Path) -> None:
    (data_file.parents[1] / "ingestor").write_text("a file where a folder should be")
    with pytest.raises(TransientError, match="ingestor cannot be used"):
        write_sidecars(describe_file(data_file, handling()))


def test_a_description_is_the_same_after_it_was_stored(data_file: Path) -> None:
    found = describe_file(data_file, handling(), ANNOUNCEMENT)
    assert FileDescription.model_validate_json(found.model_dump_json()) == found


def test_files_that_differ_in_their_extension_share_nothing(data_file: Path) -> None:
    other = data_file.with_suffix(".other")
    other.write_bytes(b"other")

    planned = [
        {sidecar.path for sidecar in describe_file(path, handling(), ANNOUNCEMENT).sidecars}
        for path in (data_file, other)
    ]

    assert planned[0].isdisjoint(planned[1])


def test_a_name_that_leaves_no_room_for_an_extension_is_described_without_such_files(data_file: Path) -> None:
    long = data_file.rename(data_file.with_name("x" * 249 + ".hdf"))

    found = describe_file(long, handling(), ANNOUNCEMENT)

    assert found.all_files == (found.data_file,)
    assert ["longer than a file system allows" in notice.reason for notice in found.notices] == [True] * 3
    write_sidecars(found)


def test_a_folder_that_is_a_link_is_refused_and_nothing_is_written_there(
    data_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("etc")
    (data_file.parents[1] / "ingestor").symlink_to(elsewhere)

    with pytest.raises(PermanentError, match="is a symbolic link") as refused:
        write_sidecars(describe_file(data_file, handling(), ANNOUNCEMENT))

    assert "ingestor_files_directory" in refused.value.remedy
    assert list(elsewhere.iterdir()) == []


def test_a_folder_outside_the_data_directory_is_refused_and_not_made(
    data_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("etc")
    (data_file.parent / "beside").symlink_to(elsewhere)
    given = {"data_directory": str(data_file.parents[1]), "ingestor_files_directory": "beside/ingestor"}

    with pytest.raises(PermanentError, match="outside the data directory"):
        write_sidecars(describe_file(data_file, handling(**given), ANNOUNCEMENT))

    assert list(elsewhere.iterdir()) == []


def test_an_absolute_folder_may_be_anywhere(
    data_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    own = tmp_path_factory.mktemp("own")
    given = {"data_directory": str(data_file.parents[1]), "ingestor_files_directory": str(own)}

    write_sidecars(describe_file(data_file, handling(**given), ANNOUNCEMENT))

    assert len(list(own.iterdir())) == 3


def test_links_in_the_folder_are_replaced_and_not_followed(data_file: Path, tmp_path: Path) -> None:
    found = describe_file(data_file, handling(), ANNOUNCEMENT)
    keys = tmp_path / "authorized_keys"
    keys.write_text("ours")
    folder = Path(found.sidecars[0].path).parent
    folder.mkdir()
    for sidecar in found.sidecars:
        name = Path(sidecar.path).name
        for link in (name, f".{name}.{os.getpid()}"):
            (folder / link).symlink_to(keys)

    write_sidecars(found)

    assert keys.read_text() == "ours"
    assert all(Path(sidecar.path).read_text() == sidecar.content for sidecar in found.sidecars)


def test_a_file_in_the_data_directory_itself_has_no_sidecars_outside_of_it(data_file: Path) -> None:
    """Its ingestor's folder would be beside the data directory."""
    settings = FileHandlingSettings(data_directory=str(data_file.parent))

    found = describe_file(data_file, settings, {"job_id": "job"})

    assert (found.sidecars, found.sidecar_files) == ((), ())
    (notice,) = found.notices
    assert "outside the data directory" in notice.reason
    write_sidecars(found)
    assert not (data_file.parent.parent / "ingestor").exists()
