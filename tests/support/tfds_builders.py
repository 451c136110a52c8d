"""Small sets of TensorFlow Datasets: what the tests that prepare some share."""

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
