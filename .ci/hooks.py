"""Hooks of mkdocs for the tutorials: their pages load nothing from other servers."""

import re

_FROM_ELSEWHERE = re.compile(r"<script(?:(?!</script>).)*?https://(?:(?!</script>).)*?</script>", re.DOTALL)
_NO_ALT = 'alt="No description has been provided for this image"'


def on_config(config):
  """Let kernels talk by IPC: each would warn of TCP."""
  from jupyter_client.manager import KernelManager

  KernelManager.transport.default_value = "ipc"
  return config


def on_page_content(content, page, config, files):
  """Leave out the scripts that notebooks load (MathJax, Mermaid), and describe the pictures of a tutorial."""
  del config, files
  if page.file.src_path.endswith(".py"):
    content = _FROM_ELSEWHERE.sub("", content).replace(_NO_ALT, 'alt="What the code above draws"')
  return content
