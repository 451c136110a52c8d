"""Give the images of an archive back that bin/compress wrote.

bin/decompress my_photos.fpp --preset=photos --output=my_photos
bin/decompress test_split.fpp --workdir=runs/mine --output=test_split.npy
bin/decompress my_photos.fpp --preset=photos --output=some --files=cat.png,dog.png
bin/decompress my_photos.fpp --list

An archive of files becomes a folder: pixels as PNG, files that were kept as they are. An archive of arrays becomes
a .npy file. If an archive is damaged, what can be decoded is written, what is lost is named, and the exit code is 2.
An archive of the tier portable needs no TensorFlow to be decoded.
"""

import pathlib

from absl import flags
import numpy as np

from flowpp_tf.compression import ArchiveError, ArchiveReader, read_images
from flowpp_tf.core.errors import InputError
from flowpp_tf.io import gate
from flowpp_tf.io.files import replace_file
from flowpp_tf.programs import run
from flowpp_tf.programs.codec_models import coder_for_archive

_MOST_LINES = 100


def define_flags() -> None:
  """Define the program's flags."""
  flags.DEFINE_string("workdir", None, "Directory of the run whose model made the archive.")
  flags.DEFINE_string("preset", None, "Preset whose model made the archive.")
  flags.DEFINE_string("model", None, "File codec_model.HASH.npz that bin/compress wrote beside the weights.")
  flags.DEFINE_string("output", None, "Folder, new or empty, for an archive of files; .npy file for one of arrays.")
  flags.DEFINE_list("files", None, "Only these files; all if not given.")
  flags.DEFINE_bool("list", False, "Say what the archive holds, and write nothing.")


def decompress_from_flags(archive: str | None = None) -> None:
  """Write the images; what is lost is named at the end."""
  flag = flags.FLAGS
  if archive is None:
    raise InputError("give the archive: bin/decompress ARCHIVE --output=...")
  if (flag.output is None) != flag.list:
    raise InputError("give --output, or --list, which writes nothing; one of them")
  with gate.reading(archive):
    file = gate.open_regular(archive)
  with file:
    reader = ArchiveReader(file)
    if flag.list:
      _print_contents(archive, reader)
      return
    of_arrays, output = reader.header.kind == "images", pathlib.Path(flag.output)
    if of_arrays and flag.files:
      raise InputError("the archive holds arrays, not --files")
    coder = coder_for_archive(reader, flag.workdir, flag.preset, flag.model)
    reader.check(coder)
    if of_arrays:
      _write_array(reader, coder, output)
    else:
      _write_files(reader, coder, output, flag.files)


def _print_contents(archive, reader):
  header, segments = reader.header, reader.index()
  shape = "x".join(map(str, header.image_shape))
  print(
    f"{archive}: {header.kind}, {int(segments['images'].sum())} images or tiles of {shape}, {header.levels} "
    f"levels, in {len(segments)} segments; tier {header.tier}, model {header.model[:12]}..."
    f"{' (embedded)' if header.embedded else ''}, made by {header.made_by}"
  )


def _write_array(reader, coder, output):
  run.check_is_new(output)
  problems: list[str] = []
  counts: list[int] = []
  run.write_file(output, lambda path: counts.extend(_save(path, reader, coder, problems)))
  _end(problems, f"{counts[0] - counts[1]} of {counts[0]} images")


def _save(path, reader, coder, problems):
  """Write the images segment by segment; return how many there are, and how many of them are lost."""
  count = lost = 0
  header = lambda: {"descr": "|u1", "fortran_order": False, "shape": (count, *coder.model.image_shape)}
  with open(path, "wb") as file:
    np.lib.format.write_array_header_1_0(file, header())
    try:
      for part in read_images(reader, coder):
        file.write(part.images.tobytes())
        if part.problem:
          indices = np.flatnonzero(~part.known) + count
          which = f"images {indices[0]} to {indices[-1]}" if len(indices) else "no image"
          problems.append(f"{which} lost ({part.problem})")
        count, lost = count + len(part.images), lost + int((~part.known).sum())
    except ArchiveError as error:
      problems.append(str(error))
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, header())  # as long as before: NumPy leaves room for the count
  return count, lost


def _write_files(reader, coder, folder, names):
  from flowpp_tf.compression.pictures import Lost, read_pictures  # with Pillow

  count = 0
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise InputError(f"--output {str(folder)!r} is there and not empty; give a new folder")
  problems: list[str] = []
  missing = set(names or ())
  try:
    for item in read_pictures(reader, coder, names):
      missing.discard(item.name)
      if isinstance(item, Lost):
        problems.append(f"{item.name or 'files of a segment'} lost ({item.reason})")
        continue
      try:
        _write_one(folder, item)
        count += 1
      except (ArchiveError, UnicodeError, FileExistsError, NotADirectoryError) as error:
        problems.append(f"{item.name!r} cannot be written ({error})")
      except OSError as error:  # as if the disk is full: the others will not do better
        raise InputError(f"cannot write {item.name!r} below {str(folder)!r}: {error.strerror or error}") from None
  except ArchiveError as error:
    problems.append(str(error))
  if count:
    print(f"wrote {folder}: {count} files")
  _end(problems, f"{count} files")
  if missing:
    raise InputError(f"--files: not in the archive: {', '.join(sorted(missing))}")


def _write_one(folder, picture):
  from PIL import Image

  from flowpp_tf.compression.pictures import output_path

  def write(temporary):
    if picture.pixels is None:
      temporary.write_bytes(picture.data)
    else:
      pixels = picture.pixels[..., 0] if picture.pixels.shape[-1] == 1 else picture.pixels
      Image.fromarray(pixels).save(temporary, format="PNG")

  path = output_path(folder, picture.name, picture.pixels is not None)
  path.parent.mkdir(parents=True, exist_ok=True)
  replace_file(path, write)


def _end(problems, what):
  """End with exit code 2 if something is lost."""
  for problem in problems[:_MOST_LINES]:
    run.warn(problem)
  if len(problems) > _MOST_LINES:
    run.warn(f"and {len(problems) - _MOST_LINES} more")
  if problems:
    run.fail(f"not all could be decoded, only {what}: {problems[0]}")


def main() -> None:
  """Entry point of `flowpp-decompress` and `bin/decompress`."""
  define_flags()
  run.run_program(decompress_from_flags, arguments=1)
