"""Plugin: runs of bin/train that many tests look at: made when the first test asks, once for all workers."""

import shutil

import filelock
import pytest

from support.programs import call

# Each kind of part once, in place of those of a config such as digits.
TINY_MODEL = dict(
  structure="columns:1",
  filters=4,
  blocks=1,
  components=2,
  attention=False,
  dequant_structure="columns:1",
  dequant_filters=4,
  context_channels=4,
)
# A run of seconds.
TINY_RUN = ["--config=digits", *(f"--{name}={value}" for name, value in TINY_MODEL.items())]
TINY_RUN += ["--batch_size=16", "--num_samples=1", "--eval_images=4", "--tensorboard="]


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
  """Function that makes a folder by its name: the first worker that asks calls `make(folder)`, the others wait."""
  base = tmp_path_factory.getbasetemp()
  shared = (base if worker_id == "master" else base.parent) / "once"
  shared.mkdir(exist_ok=True)

  def folder(name, make):
    path = shared / name
    with filelock.FileLock(f"{path}.lock"):
      if not path.exists():
        unfinished = path.with_name(f"{name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        make(unfinished)
        unfinished.rename(path)
    return path

  return folder


# The arguments of the run that `trained_once` makes.
TRAINED = [
  *TINY_RUN,
  "--structure=columns:1,squeeze,channels:1",
  "--steps=4",
  "--validate_every=2",
  "--num_samples=2",
  "--eval_images=20",
]


@pytest.fixture(scope="session")
def trained_once(once):
  """A folder with `runs/digits`, the run `bin/train *TRAINED`, and `out.txt`, what was printed. Not to be changed."""

  def train(folder):
    (folder / "out.txt").write_text(call("train", *TRAINED, cwd=folder).ok().out)

  return once("trained", train)


@pytest.fixture
def trained(trained_once, tmp_path):
  """A copy of that folder."""
  return shutil.copytree(trained_once, tmp_path / "trained")
