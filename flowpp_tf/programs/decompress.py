"""Restore the images in an archive from bin/compress.

bin/decompress my_photos.fpp --preset=photos --output=my_photos
bin/decompress test_split.fpp --workdir=runs/mine --output=test_split.npy
bin/decompress my_photos.fpp --preset=photos --output=some --files=cat.png,dog.png
bin/decompress my_photos.fpp --list

An archive of files becomes a folder: pixels as PNG, other files verbatim. It is OUTPUT.partial until all files are
written; after a stop, the same command writes the missing files. An archive of arrays becomes a .npy file. If an
archive is damaged, the command writes what it can decode, names what is lost, and exits with code 2. Decoding does not
need TensorFlow.
"""

from collections.abc import Generator, Iterable
import contextlib
import dataclasses
import pathlib
from typing import TypeVar

import numpy as np

from flowpp_tf.compression import ArchiveError, ArchiveReader, Codec, CodecModel
from flowpp_tf.core.errors import InputError, printable
from flowpp_tf.core.settings import setting
from flowpp_tf.io import gate
from flowpp_tf.io.files import write_file
from flowpp_tf.programs import outputs, process
from flowpp_tf.programs.imports import import_tensorflow
from flowpp_tf.programs.model_options import ModelOptions

_MOST_LINES = 100
_MOST_CHARACTERS = 200  # of a name in a line
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DecompressOptions(ModelOptions):
  """Options of bin/decompress.

  Attributes:
    archive: path of the archive.
  """

  ARGUMENTS = ("archive",)

  archive: str | None = setting(None, "The archive.")
  model: str | None = setting(None, "File codec_model.HASH.npz that bin/compress wrote next to the weights.")
  output: str | None = setting(
    None, "New or empty folder for an archive of files, or .npy file for an archive of arrays."
  )
  files: tuple[str, ...] | None = setting(None, "Only these files; all if not given.")
  list: bool = setting(False, "Print what the archive holds, and write nothing.")

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.archive is None:
      raise InputError("give the archive: bin/decompress ARCHIVE --output=...")
    if (self.output is None) != self.list:
      raise InputError("give --output, or --list, which writes nothing; one of them")
    if [self.workdir, self.preset, self.model].count(None) < 2:
      raise InputError("give the model as --workdir, --preset or --model, one of them")


def run(options: DecompressOptions) -> None:
  """Write the images; name what is lost at the end."""
  archive = options.archive or ""
  process.phase(f"listing {archive}" if options.list else f"decompressing {archive} to {options.output}")
  with contextlib.ExitStack() as stack:
    with gate.reading(archive):
      reader = ArchiveReader(stack.enter_context(gate.open_regular(archive)))
    if options.list:
      _print_contents(archive, reader)
      return
    output = pathlib.Path(options.output or "")
    holds_arrays = reader.header.kind == "images"
    if holds_arrays and options.files:
      raise InputError("the archive holds arrays: --files is for one of files")
    codec = _find_codec(reader, options)
    reader.check(codec)
    process.phase("decoding")
    if holds_arrays:
      _write_array(archive, reader, codec, output)
    else:
      _write_files(archive, reader, codec, output, options.files)


def _read(archive: str, items: Iterable[T]) -> Generator[T, None, None]:
  """Yield decoded items of an archive; turn an `OSError` of reading into an `InputError` that names the archive.

  Close this generator: threads decode the next items, and the process would wait for them.
  """
  try:
    yield from items
  except OSError as error:
    raise InputError(f"{archive!r} cannot be read: {gate.reason(error)}") from None


def _print_contents(archive, reader):
  with gate.reading(archive):
    header = reader.header
    segments = reader.index()
  shape = "x".join(map(str, header.image_shape))
  embedded = " (embedded)" if header.embedded else ""
  text = (
    f"{archive}: {header.kind}, {int(segments['images'].sum())} images or tiles of {shape}, {header.levels} "
    f"levels, in {len(segments)} segments; model {header.model[:12]}...{embedded}, made by {header.made_by}"
  )
  print(printable(text))


def _write_array(archive, reader, codec, output):
  outputs.check_is_new(output)
  problems: list[str] = []
  counts: list[int] = []
  with contextlib.closing(_read(archive, reader.decoded(codec))) as segments:
    outputs.write_file(output, lambda path: counts.extend(_save(path, segments, codec, problems)))
  _end(problems, f"{counts[0] - counts[1]} of {counts[0]} images")


def _save(path, segments, codec, problems):
  """Write the images segment by segment; return the number of images and the number of lost images."""
  count = lost = 0

  def write_header(file):
    descr = np.lib.format.dtype_to_descr(codec.dtype)
    header = {"descr": descr, "fortran_order": False, "shape": (count, *codec.model.image_shape)}
    np.lib.format.write_array_header_1_0(file, header)

  with open(path, "wb") as file:
    write_header(file)
    try:
      for segment in segments:
        file.write(segment.images.tobytes())
        indices = np.flatnonzero(~segment.known) + count
        if segment.problem:
          which = f"images {indices[0]} to {indices[-1]}" if len(indices) else "no image"
          problems.append(f"{which} lost ({segment.problem})")
        count += len(segment.images)
        lost += len(indices)
    except ArchiveError as error:
      problems.append(str(error))
    file.seek(0)
    write_header(file)  # as long as before: NumPy leaves room for the count
  return count, lost


def _write_files(archive, reader, codec, folder, names):
  from flowpp_tf.compression.files.folder import OutputFolder  # with Pillow
  from flowpp_tf.compression.files.pictures import read_pictures

  output = OutputFolder(folder)
  seen = set[str]()
  with output.writing(), contextlib.closing(_read(archive, read_pictures(reader, codec, names))) as items:
    problems = _write_all(output, items, seen)
  what = f"{len(output.paths)} files"
  if output.paths:
    print(f"wrote {printable(folder)}: {what}")
  _end(problems, what)
  if missing := set(names or ()) - seen:
    raise InputError(f"--files: not in the archive: {', '.join(sorted(missing))}")


def _write_all(output, items, seen):
  """Write files, and add their names to `seen`; return a line for each file that cannot be decoded or written."""
  from flowpp_tf.compression.files.folder import is_fatal
  from flowpp_tf.compression.files.pictures import Lost

  problems = []
  try:
    for item in items:
      seen.add(item.name)
      if isinstance(item, Lost):
        what = _shown(item.name) if item.name else "files of a segment"
        problems.append(f"{what} lost ({item.reason})")
        continue
      try:
        output.write(item)
      except (InputError, UnicodeError, OSError) as error:
        if is_fatal(error):
          raise
        problems.append(f"{_shown(item.name)} cannot be written ({gate.reason(error)})")
  except ArchiveError as error:
    problems.append(str(error))
  return problems


def _shown(name):
  """Return a name as text of limited length: a name in an archive may have millions of characters."""
  if len(name) > _MOST_CHARACTERS:
    name = f"{name[:_MOST_CHARACTERS]}..."
  return repr(name)


def _end(problems, what):
  """Print the problems, and raise an `InputError` if there are any."""
  for problem in problems[:_MOST_LINES]:
    process.warn(problem)
  if len(problems) > _MOST_LINES:
    process.warn(f"and {len(problems) - _MOST_LINES} more")
  if problems:
    raise InputError(f"not all could be decoded, only {what}: {problems[0]}")


def codec_model_name(model_hash: str) -> str:
  """Return the name of the file that holds the model with a given hash."""
  return f"codec_model.{model_hash[:12]}.npz"


def save_codec_model(workdir: pathlib.Path, model: CodecModel) -> None:
  """Write a run's `CodecModel` unless it exists; keep the models of earlier weights, which earlier archives need."""
  path = workdir / codec_model_name(model.sha256())
  try:
    if not path.exists():
      write_file(path, model.to_bytes())
  except OSError as error:
    process.warn(
      f"{str(path)!r} cannot be written, so that this run's archives need TensorFlow to be decoded: {error.strerror}"
    )


def _find_codec(reader, options):
  """Return the codec of an archive; raise an `InputError` if neither it nor the options name its model."""
  wanted = reader.header.model
  named = options.workdir is not None or options.preset is not None
  stored = pathlib.Path(options.model or "")
  if named:
    stored = options.find_model()[1] / codec_model_name(wanted)
  if options.model is not None or stored.is_file():
    return Codec(CodecModel.load(stored))
  if reader.model is not None:
    return Codec(reader.model)
  if named:
    return Codec(_load_model(options, wanted))
  raise ArchiveError(
    f"the archive does not hold its model (hash {wanted[:12]}...); give it as --preset or "
    f"--workdir, or its {codec_model_name(wanted)} as --model"
  )


def _load_model(options, wanted):
  try:
    import_tensorflow()
    return options.find_workdir().load()[0]
  except ImportError as error:
    raise InputError(
      f"the weights of this model are read by TensorFlow, which is not installed ({error}); give its "
      f"{codec_model_name(wanted)} as --model"
    ) from None
