"""Files of packages from npm, of one version and one SHA-512."""

import base64
import hashlib
import pathlib
import shutil
import subprocess
import tarfile


def fetch(name, version, sha512, wanted, folder):
  """Write the files of a package that are wanted into a folder, once.

  Args:
    name: of the package.
    version: of the package.
    sha512: of its archive, in base 64.
    wanted: function of a path in the package; returns where below `folder` the file goes, None for nowhere.
    folder: directory, for this version alone.
  """
  done = folder / ".complete"
  if done.exists():
    return
  if not shutil.which("npm"):
    raise RuntimeError(f"npm is needed for {name}: install Node.js")
  folder.mkdir(parents=True, exist_ok=True)
  subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
  archive = folder / f"{name}-{version}.tgz"
  if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != sha512:
    raise RuntimeError(f"{archive} has another SHA-512 than expected")
  with tarfile.open(archive) as package:
    for member in package.getmembers():
      place = wanted(pathlib.PurePosixPath(member.name))
      if place is not None:
        target = folder / place
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(package.extractfile(member).read())
  archive.unlink()
  done.touch()
