"""Archives of strangers: re-signed ones are found, and nothing takes more than its budget or ends in wrong words."""

import dataclasses
import gc
import io
import json
import struct
import weakref
import zipfile

import numpy as np
import pytest

import flowpp_tf as fpp
from flowpp_tf import compression
from flowpp_tf.compression import archive, layers, segment, threads
from flowpp_tf.compression.files import pictures
from flowpp_tf.compression.kernels import KERNELS
from flowpp_tf.compression.networks import CodecMemory, _network
from flowpp_tf.io.budget import Budget, BudgetError, use
from support import archives, programs
from support.archives import (
  apart,
  decode_segment,
  encode_segment,
  example_images,
  files_archive,
  images_archive,
  pack_files,
  put_together,
  small_codec,
  unpack_files,
  written,
)
from support.hostile_files import peak_of
from support.marks import slow
from support.refusing import refuses

pytestmark = pytest.mark.needs("constriction")


# --- Places -------------------------------------------------------------------------------------

# What a stranger does with the segments of an archive, before all outer checksums are computed again.
CHANGES = {
  "two segments changed places": lambda b, s: put_together(b, [s[1], s[0], s[2]]),
  "a segment in the middle is left out": lambda b, s: put_together(b, [s[0], s[2]]),
  "the last segment is left out": lambda b, s: put_together(b, s[:2]),
  "all segments are left out": lambda b, s: put_together(b, []),
  "a segment is there twice": lambda b, s: put_together(b, [s[0], s[0], s[1], s[2]]),
  "the first segment is in the place of all": lambda b, s: put_together(b, [s[0], s[0], s[0]]),
}
# And where the index does not have what is there.
INDICES = {
  "the index leaves out the last segment": lambda b, s: put_together(b, s, index=[0, 1]),
  "the index leaves out a segment in the middle": lambda b, s: put_together(b, s, index=[0, 2], firsts=[0, 0, 15]),
  "the index leaves out the first segment": lambda b, s: put_together(b, s, index=[1, 2], firsts=[0, 0, 15]),
  "the index leaves out all": lambda b, s: put_together(b, s, index=[]),
  "the index has a segment twice": lambda b, s: put_together(b, s, index=[0, 0, 1, 2]),
  "the index has another order": lambda b, s: put_together(b, s, index=[1, 0, 2]),
  "the index miscounts": lambda b, s: put_together(b, s, index=[(0, s[0][0] - 1), (1, s[1][0] + 1), 2]),
  "bytes lie between the segments": lambda b, s: put_together(b, [s[0], bytes(200), s[1], s[2]], firsts=[0, 0, 15, 30]),
  "bytes lie before the index": lambda b, s: put_together(b, [*s, bytes(200)]),
}


@pytest.mark.parametrize("change", [*map(slow, [*CHANGES][1:]), *[*CHANGES][:1], *INDICES])
def test_segments_that_are_not_in_their_places_are_found(change):
  compressed = {**CHANGES, **INDICES}[change](*apart(images_archive()))
  with pytest.raises(compression.ArchiveError):
    fpp.decompress(small_codec(), compressed)


@pytest.mark.parametrize("kept", [[1, 0, 2, 3], [0, 2, 3], [0, 1, 3], [1, 2, 3], [0, 1, 2], [0, 0, 1, 2, 3]])
def test_segments_of_files_that_are_not_in_their_places_are_found(kept):
  """They have no images by which they could be counted."""
  files = [pictures.ImageFile(name, data=name.encode() * 9000) for name in "abcd"]
  beginning, segments = apart(pack_files(files))
  assert [images for images, _ in segments] == 4 * [0]
  data = put_together(beginning, [segments[i] for i in kept])
  found = list(unpack_files(data))
  assert any(isinstance(item, pictures.Lost) for item in found)


def test_putting_together_what_was_taken_apart_changes_nothing():
  assert put_together(*apart(images_archive())) == images_archive()


def test_an_archive_may_hold_no_image_and_no_file():
  empty = written(lambda writer: None)
  assert fpp.decompress(small_codec(), empty).shape == (0, 4, 4, 1)
  without_files = written(lambda writer: None, kind="files")
  assert list(unpack_files(without_files)) == []


# --- Budgets ------------------------------------------------------------------------------------


def plain_zeros(count):
  """A segment of images that are all 0, in a few bytes."""
  fields = segment.encode_fields(small_codec(), np.zeros((0, 4, 4, 1), np.uint8))
  left_out = dict(
    left_out=np.arange(count), left_out_images=segment.encode_lzma_images(np.zeros((count, 4, 4, 1), np.uint8))
  )
  digest = segment._digest(np.zeros((count, 4, 4, 1), np.uint8), b"")
  return dataclasses.replace(fields, count=count, digest=digest, **left_out).to_bytes()


def test_a_segment_claims_its_memory_before_it_takes_it():
  data = plain_zeros(60_000)
  with use(Budget(memory=1 << 20)):

    def decode():
      with pytest.raises(BudgetError, match="a segment of the archive would take .* of memory; .*--memory"):
        decode_segment(small_codec(), data)

    assert peak_of(decode) < 1 << 20


def test_a_segment_takes_no_more_than_it_claims(monkeypatch):
  claims = []
  monkeypatch.setattr(segment, "claim", lambda kind, amount, what: claims.append(amount))
  images = np.zeros((1 << 16, 4, 4, 1), np.uint8)
  data = encode_segment(small_codec(), images[:1], bytes(1 << 23)), plain_zeros(60_000)
  for part in data:
    claims.clear()
    peak = peak_of(lambda: decode_segment(small_codec(), part))  # noqa: B023
    assert peak < sum(claims) < 4 * peak


def test_a_segment_that_is_lost_leaves_only_its_images(monkeypatch):
  """Several wait for their turn: what decoding them took must not wait with them."""
  beginning, segments = apart(images_archive())
  broken = [(count, payload[:-4] + bytes(4)) for count, payload in segments]
  parsed, from_bytes = [], segment.Fields.from_bytes

  def remembered(*arguments):
    fields = from_bytes(*arguments)
    parsed.append(weakref.ref(fields))
    return fields

  monkeypatch.setattr(segment.Fields, "from_bytes", remembered)
  reader = archive.ArchiveReader(io.BytesIO(put_together(beginning, broken)))
  results = [*reader.decoded(small_codec())]
  assert len(results) == 3 and all(result.problem and len(result.images) for result in results)
  assert len(parsed) >= 3
  # A thread of the pool lets go of what it was given a moment after its result is there.
  programs.wait_for(lambda: gc.collect() >= 0 and not any(fields() for fields in parsed))


def test_what_comes_out_is_counted_over_all_segments():
  part = 10_000, plain_zeros(10_000)
  beginning, _ = apart(images_archive())
  compressed = put_together(beginning, [part] * 5)
  reader = archive.ArchiveReader(io.BytesIO(compressed))
  with use(Budget(bytes_out=500_000, ratio=2)):
    parts = reader.decoded(small_codec())
    for _ in range(3):
      next(parts)
    with pytest.raises(BudgetError, match="would become 625 KiB, more than 2 times as many; .*--max_output"):
      next(parts)


def test_an_index_claims_its_entries():
  data = images_archive()
  with use(Budget(items=2)), pytest.raises(BudgetError, match="the archive's index has 3 items; at most 2 are read"):
    fpp.decompress(small_codec(), data)
  # A million entries need a million segments, which do not fit in the file.
  beginning, segments = apart(images_archive())
  reader = archive.ArchiveReader(io.BytesIO(put_together(beginning, segments[:1], index=[0] * 200_000)))

  def read():
    with pytest.raises(compression.ArchiveError, match="index does not agree"):
      reader.index()

  assert peak_of(read) < 1 << 20  # the entries have 2.4 MB


def test_a_list_of_files_claims_its_entries():
  reader = archive.ArchiveReader(io.BytesIO(files_archive([["a", 0, 0]] * 50)))
  with use(Budget(items=20)), pytest.raises(BudgetError, match="list of files of a segment has 50 items"):
    list(pictures.read_pictures(reader, small_codec()))


def test_json_of_an_archive_claims_what_it_can_take():
  text = "[" + "{}," * 50_000 + "{}]"
  file = io.BytesIO()
  np.savez(file, description=np.frombuffer(text.encode(), np.uint8))
  extra = struct.pack("<I", len(text)) + text.encode()
  readers = lambda: compression.CodecModel.from_bytes(file.getvalue()), lambda: pictures.parse_list(extra, (4, 4, 1))
  with use(Budget(memory=1 << 20)):
    for read in readers:
      with pytest.raises(BudgetError, match="JSON of 146 KiB would take 3.43 MiB of memory"):
        read()


@pytest.mark.parametrize("b", [[10**15, 0], ["metadata", 4, 4, 0, 1, 10**15], ["wrapper", 4, 4, 0, 1, 10**15, 0, 0]])
def test_a_file_that_claims_more_bytes_than_there_are_is_lost_without_its_neighbours(b):
  crc = lambda data: segment.zlib.crc32(data)
  entries = [["a", 5, crc(b"hello")], ["b", *b], ["c", 0, crc(b"")]]
  tiles = example_images()[:1] if len(b) > 2 else example_images()[:0]
  back = list(unpack_files(files_archive(entries, b"helloabc", tiles)))
  assert [(type(item).__name__, item.name) for item in back] == [("ImageFile", "a"), ("Lost", "b"), ("ImageFile", "c")]
  assert "should have 1,000,000,000,000,000 bytes, of which 3 are there" in back[1].reason


def test_tiles_that_belong_to_no_file_are_said():
  reader = archive.ArchiveReader(io.BytesIO(files_archive([["a", 0, 0]], tiles=example_images()[:3])))
  assert pictures.Lost("", "a segment has tiles that belong to no file") in list(
    pictures.read_pictures(reader, small_codec())
  )


def bomb(**description):
  """A model of a few kilobytes whose description asks for more."""
  model = archive.ArchiveReader(io.BytesIO(archives.example("attention"))).model
  small = {
    name: np.ones((1, 1, 1), np.float32) if name.endswith(("scale", "/embedding", "position_embedding")) else value
    for name, value in model.weights.items()
  }
  small |= {name: np.zeros((1, 1, 1), np.float32) for name in small if name.endswith("/bias") and small[name].ndim == 3}
  return dataclasses.replace(model, description={**model.description, **description}, weights=small)


def test_a_model_claims_its_memory_before_it_is_built(monkeypatch):
  model = bomb(image_shape=[128, 128, 1])
  assert len(model.to_bytes()) < 50_000

  def build():
    with pytest.raises(BudgetError, match="the codec model would take .* GiB of memory; at most 4 GiB are allowed"):
      compression.Codec(model)

  monkeypatch.setattr("flowpp_tf.compression.codec.Networks", lambda model: pytest.fail("it was built"))
  assert peak_of(build) < 1 << 20


@pytest.mark.parametrize("size", [64, 96, 120])
def test_a_model_of_an_archive_takes_no_more_than_its_bytes_are_worth(tmp_path, monkeypatch, size):
  """40 kB of weights with attention take 300 MB and 8 s at 64x64, 1.4 GB and 70 s at 96x96; each is below 4 GiB."""
  model = bomb(image_shape=[size, size, 1])
  monkeypatch.setattr(archive.CodecModel, "from_bytes", lambda data, name: model)
  header = dict(kind="images", model=model.sha256()[:32], image_shape=model.image_shape, levels=256)
  text = json.dumps({**header, "embedded": 40_000, "version": archive.VERSION, "made_by": ""}).encode()
  data = b"\x93FLOWPP\n" + struct.pack("<II", len(text), segment.zlib.crc32(text)) + text + bytes(40_000)
  monkeypatch.setattr("flowpp_tf.compression.codec.Networks", lambda model: pytest.fail("it was built"))
  with pytest.raises(BudgetError, match="memory of the archive's model: 39.1 KiB would become .*--max_output"):
    compression.codec_for(archive.ArchiveReader(io.BytesIO(data)), None)
  (tmp_path / "a.fpp").write_bytes(data)
  assert "--max_output" in programs.refusal("decompress", "a.fpp", "--output=a.npy", cwd=tmp_path)


def test_an_array_of_a_model_that_claims_more_bytes_than_it_has_is_refused():
  data = small_codec().model.to_bytes()
  small, large = b"(4, 2, 2), }       ", b"(4, 2, 20000000), }"
  assert small in data
  file = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(data)) as members, zipfile.ZipFile(file, "w") as changed:
    for member in members.infolist():
      content = members.read(member)
      changed.writestr(member.filename, content.replace(small, large))
  peak = peak_of(lambda: pytest.raises(fpp.InputError, compression.CodecModel.from_bytes, file.getvalue()))
  assert peak < 8 << 20


def test_a_model_whose_arrays_are_compressed_is_refused_before_they_are_read():
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as members:
    members.writestr("description.npy", np.random.RandomState(0).bytes(1000))
  data = file.getvalue()
  refuses("its array 'description.npy' is compressed, which no model's is", compression.CodecModel.from_bytes, data)


@pytest.mark.parametrize(
  "stages, message",
  [
    ([["columns", 0]], "the model has a stage 'columns' of 0 couplings"),
    ([["spiral", 1]], "the codec model is invalid: KeyError: 'spiral'"),
    ([["squeeze", 0]] * 3, "the model has a stage 'squeeze' of 0 couplings, which its images cannot have"),
    ([["channels", -1]], "the model has a stage 'channels' of -1 couplings"),
  ],
)
def test_stages_that_images_cannot_have_are_refused(stages, message):
  model = bomb()
  flow = {**model.description["flow"], "stages": stages}
  refuses(message, compression.Codec, bomb(flow=flow))


# --- Words --------------------------------------------------------------------------------------


@pytest.mark.needs("numba")
@pytest.mark.parametrize("compiled", [False, True], ids=["NumPy", "compiled"])
@pytest.mark.parametrize("size", [1, 3])
def test_products_take_no_more_than_a_network_claims(size, compiled, monkeypatch):
  """A kernel of more than 3x3 is refused."""
  monkeypatch.setattr(KERNELS, "loops", None)
  assert not compiled or KERNELS.use_loops()
  weights = {"condition/kernel": np.ones((size, size, 1, 1)), "condition/bias": np.zeros(1)}
  product = layers.Product(weights, "condition")
  claimed = 8 * _network(weights, {"mixer": "none"}, 32, 16)
  for count in (1, 9):
    x = np.zeros((count, 32, 16, 1))
    assert peak_of(lambda: product(x)) < count * claimed + (1 << 12)  # noqa: B023


def test_the_formula_of_a_model_is_close_to_what_it_takes(monkeypatch):
  """Within a factor of 3 above what is measured, never below; tools of the house measured it on nine models."""
  monkeypatch.setattr(threads, "CORES", 1)
  for name in ("attention", "vflow", "uniform"):
    model = archive.ArchiveReader(io.BytesIO(archives.example(name))).model
    memory = CodecMemory.from_model(model)
    peak = peak_of(lambda: compression.Codec(model))  # noqa: B023
    claimed = memory.model + memory.batch(2)
    assert peak < claimed + (1 << 19) and claimed < 3 * peak, (name, peak, claimed)


def test_a_kernel_that_no_model_has_is_refused():
  model = small_codec().model
  weights = {**model.weights, "flow/0/network/input_conv/kernel": np.zeros((31, 31, 1, 4), np.float32)}
  refuses("the model has a kernel of more than 3x3", compression.Codec, dataclasses.replace(model, weights=weights))
