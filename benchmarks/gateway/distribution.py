"""nginx of the distribution: the one that is installed, else its package unpacked into the cache.

Installing the package would start a server on port 80, which nobody asked a benchmark for.
"""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

from rbee_deploy.artefacts import Say, cache_root, cached_dir, say_to_stderr
from rbee_deploy.commands import run
from rbee_deploy.errors import ArtefactError

ADMIN_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def nginx(*, say: Say = say_to_stderr) -> Path:
    """Return nginx's program or raise ArtefactError."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:{ADMIN_FOLDERS}")
    if found is not None:
        return Path(found)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ArtefactError("nginx is not installed, and there is no apt-get to get it with: install it")
    return _unpacked("nginx", say) / "usr" / "sbin" / "nginx"


def version(program: Path) -> str:
    """Return what nginx calls its version, or raise ArtefactError if it does not run."""
    asked = subprocess.run((str(program), "-v"), capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise ArtefactError(f"{program} does not run: {asked.stderr.strip()[-200:]}; install your distribution's nginx")
    return asked.stderr.strip().rpartition("/")[2]


def _unpacked(package: str, say: Say) -> Path:
    archive = archive_name(_uris(package, say))

    def fetch(draft: Path) -> None:
        # An absolute name is a local package to apt-get, so that the folder is where it runs.
        run(("apt-get", "--quiet", "download", package), title=f"download {package}", say=say, cwd=draft)
        downloaded = next(draft.glob("*.deb"))
        run(("dpkg-deb", "--extract", str(downloaded), str(draft)), title=f"unpack {package}", say=say)
        downloaded.unlink()

    return cached_dir(cache_root() / "tools" / archive.removesuffix(".deb"), fetch)


def _uris(package: str, say: Say) -> str:
    command = ("apt-get", "download", "--print-uris", package)
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode != 0 and os.geteuid() == 0:
        run(("apt-get", "--quiet", "update"), title="refresh the lists of packages", say=say)
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise ArtefactError(f"apt-get knows no package {package}: {asked.stderr.strip()[-200:]}; run apt-get update")
    return asked.stdout


def archive_name(uris: str) -> str:
    """Return the name of the one archive in what `apt-get download --print-uris` says; it tells the version."""
    words = uris.split()
    names = [word for word in words[1:] if word.endswith(".deb")]
    if len(names) != 1:
        raise ArtefactError(f"apt-get names no archive: {uris.strip()[:200]!r}")
    return unquote(names[0])
