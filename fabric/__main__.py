"""``python3 -m fabric`` in a bare clone: make the environment, then be the ``fabric`` command in it.

This file is read by whatever ``python3`` is. It must parse under every Python 3, so that one which is too
old can hand over to a newer one beside it, or say what is needed. The work is in `fabric/bootstrap.py`.
"""

import os
import subprocess
import sys

SUPPORTED = ((3, 11), (3, 12), (3, 13))
ADVICE = "install one of them (Debian, Ubuntu: apt install python3.11 python3.11-venv), then run python3.11 -m fabric"
EX_UNAVAILABLE = 69


def find_supported() -> "str | None":
    """The first supported Python on PATH that really starts (a shim of pyenv may be there and refuse)."""
    for version in SUPPORTED:
        name = "python%d.%d" % version
        try:
            with open(os.devnull, "w") as nothing:
                if subprocess.call([name, "-c", "import venv"], stdout=nothing, stderr=nothing) == 0:
                    return name
        except OSError:
            pass
    return None


def main() -> None:
    """Run the bootstrap, under another Python if this one will not do."""
    if not sys.platform.startswith("linux"):
        sys.stderr.write("fabric: error: runs on Linux and this is %s: use a container\n" % sys.platform)
        sys.exit(EX_UNAVAILABLE)
    if sys.version_info[:2] in SUPPORTED:
        from fabric.bootstrap import main as bootstrap

        bootstrap(sys.argv[1:])
        return
    other = find_supported()
    if other is None:
        found = "%d.%d" % sys.version_info[:2]
        sys.stderr.write("fabric: error: needs Python 3.11, 3.12 or 3.13 and this is %s: %s\n" % (found, ADVICE))
        sys.exit(EX_UNAVAILABLE)
    os.execvp(other, [other, "-m", "fabric"] + sys.argv[1:])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
