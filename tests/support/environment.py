"""An environment of the tests' own: import this before TensorFlow.

Nothing of the caller's surroundings reaches a test or a process that it starts: a home directory with settings, a
locale, a umask, variables that programs read, signals that a background job or `nohup` ignores.
"""

import atexit
import os
import shutil
import signal
import site
import tempfile

_OURS = {
  "LC_ALL": "C.UTF-8",
  "TERM": "dumb",
  "COLUMNS": "80",
  "LINES": "24",
  "TZ": "UTC",
  "PYTHONHASHSEED": "0",
  "MPLBACKEND": "agg",
  "TF_CPP_MIN_LOG_LEVEL": "3",
  "GRADIO_ANALYTICS_ENABLED": "False",
  "HF_HUB_OFFLINE": "1",
}
_REMOVED = (
  "TF_CONFIG",
  "TF_DETERMINISTIC_OPS",
  "TF_USE_LEGACY_KERAS",
  "TF_FORCE_GPU_ALLOW_GROWTH",
  "XLA_FLAGS",
  "KERAS_BACKEND",
  "KERAS_HOME",
  "TFDS_DATA_DIR",
  "MPLCONFIGDIR",
  "XDG_CACHE_HOME",
  "XDG_CONFIG_HOME",
  "XDG_DATA_HOME",
  "PYTHONWARNINGS",
  "PYTHONOPTIMIZE",
  "PYTHONIOENCODING",
  "NO_COLOR",
  "FORCE_COLOR",
  "LANGUAGE",
  "PYTHONPATH",
)


def isolate():
  """Give this process, and with it all that it starts, an environment that is the same everywhere."""
  os.environ["PYTHONUSERBASE"] = site.getuserbase()  # packages of `pip install --user` stay
  for name in _REMOVED:
    os.environ.pop(name, None)
  os.environ.update(_OURS)
  if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the home of the process that started them
    os.environ["HOME"] = home = tempfile.mkdtemp(prefix="flowpp_tf_home_")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
  os.umask(0o022)
  _answer_signals()


def _answer_signals():
  """Let processes that tests start answer signals: they inherit those that are ignored, and no others.

  Shells start jobs in the background with SIGINT ignored, and `nohup` ignores SIGHUP. This process still does nothing
  at a SIGHUP that it ignored, by a function, which processes do not inherit.
  """
  if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
  for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1):
    if signal.getsignal(number) is signal.SIG_IGN:
      signal.signal(number, lambda number, frame: None)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
