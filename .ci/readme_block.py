"""Runs the Python code of a page: python .ci/readme_block.py README.md"""

import pathlib
import re
import sys

for block in re.findall(r"```python\n(.*?)```", pathlib.Path(sys.argv[1]).read_text(), re.DOTALL):
  exec(compile(block, sys.argv[1], "exec"), {})
