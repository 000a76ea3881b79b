"""A private PostgreSQL server in a temporary folder, which a test may stop and start."""

import contextlib
import glob
import os
import shutil
import subprocess
from pathlib import Path


def binaries():
    """Where initdb and pg_ctl are; None where there are none."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")) or [shutil.which("initdb")]
    return Path(found[-1]).parent if found[-1] else None


class Server:
    """PostgreSQL on a Unix socket; as root it runs as another user, which it insists on."""

    def __init__(self, folder):
        self.folder = folder
        self.user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
        if self.user:
            os.chown(folder, 65534, 65534)
        options = ["-D", f"{folder}/data", "-U", "me", "--auth=trust", "--no-sync"]
        subprocess.run([*self.user, binaries() / "initdb", *options], check=True, capture_output=True, cwd=folder)
        self.url = f"postgresql:///postgres?host={folder}&user=me"
        self.start()

    def start(self):
        """Start it and wait until it answers."""
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        self.control("start", "-w", "-o", options, "-l", f"{self.folder}/server.log")

    def stop(self):
        """As a power cut would: every connection breaks."""
        self.control("stop", "-m", "immediate")

    def control(self, *what):
        """Call pg_ctl."""
        command = [*self.user, binaries() / "pg_ctl", "-D", f"{self.folder}/data", *what]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)


@contextlib.contextmanager
def running():
    """A server for as long as the block takes."""
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/autoprune-pg-XXXX"], text=True).strip())
    server = Server(folder)
    try:
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.stop()
        shutil.rmtree(folder)
