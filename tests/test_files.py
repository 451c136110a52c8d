"""Files that are whole or not there."""

import pytest

from flowpp_tf.files import replace_file


def test_a_file_that_cannot_be_written_leaves_what_was_there_and_nothing_else(tmp_path):
  path = tmp_path / "file"
  replace_file(path, lambda temporary: temporary.write_text("old"))

  def fail(temporary):
    temporary.write_text("half")
    raise OSError("disk full")

  with pytest.raises(OSError, match="disk full"):
    replace_file(path, fail)
  assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
