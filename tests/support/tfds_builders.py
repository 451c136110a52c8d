"""Small sets of TensorFlow Datasets: what the tests that prepare some share."""

import types

import tensorflow_datasets as tfds


class OfSplits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A set with images of `SHAPE`, further `FEATURES`, and the splits of `SPLITS`, each from `_generate_examples`."""

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=self.SHAPE), **self.FEATURES}),
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in self.SPLITS}


def prepared(folder, *builders):
  """Prepare sets in a folder, and return it: a `--data_dir` with all of them."""
  tfds.disable_progress_bar()
  for builder in builders:
    builder(data_dir=folder).download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  return folder


def named(name, of, version=None, config=None, **attributes):
  """A set of a name, of a class of sets, with another version, config, or other attributes."""
  if version:
    attributes["VERSION"] = tfds.core.Version(version)
  if config:
    attributes["BUILDER_CONFIGS"] = [tfds.core.BuilderConfig(name=config, description=config)]
  return types.new_class(name, (of,), {"skip_registration": True}, lambda members: members.update(attributes))
