"""A reader sees the old file or the new one, never a part."""

import stat

import pytest

from mmesbnn.whole_files import whole_file, whole_folder


def test_a_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / 'x.txt'
    path.write_text('old')
    with whole_file(path) as partial:
        partial.write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_file_leaves_the_old_one_whole(tmp_path):
    path = tmp_path / 'x.txt'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text('ne')
        raise KeyboardInterrupt
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_oserror(tmp_path):
    with pytest.raises(OSError), whole_file(tmp_path / 'no' / 'x') as partial:
        partial.write_text('new')


def test_a_folder_appears_at_the_end_and_others_may_read_it(tmp_path):
    root = tmp_path / 'data' / 'digits'
    with whole_folder(root) as partial:
        (partial / 'x').touch()
        assert not root.exists()
    assert [path.name for path in root.iterdir()] == ['x']
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    assert list(root.parent.iterdir()) == [root]


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / 'x') as partial:
        (partial / 'y').touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
