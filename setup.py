"""What pyproject.toml cannot say: the recipes lie at the top of a clone, and inside of the installed package."""

import setuptools

setuptools.setup(
  packages=[*setuptools.find_packages(include=["flowpp_tf", "flowpp_tf.*"]), "flowpp_tf.configs"],
  package_dir={"flowpp_tf.configs": "configs"},
  package_data={
    "flowpp_tf": ["py.typed"],
    "flowpp_tf.pretrained": ["*/*.safetensors", "*/*.json", "*/*.jsonl", "*/*.md"],
    "flowpp_tf.configs": ["*.flags"],
  },
)
