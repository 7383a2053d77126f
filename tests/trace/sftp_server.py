"""An SFTP server in this process, of one user and one folder, by paramiko."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import paramiko

USER, PASSWORD = "reader", "secret"


class _Login(paramiko.ServerInterface):  # type: ignore[misc]  # without types
    def check_auth_password(self, username: str, password: str) -> int:
        known = (username, password) == (USER, PASSWORD)
        return int(paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED)

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)


class _Handle(paramiko.SFTPHandle):  # type: ignore[misc]  # without types
    def stat(self) -> Any:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


class _Files(paramiko.SFTPServerInterface):  # type: ignore[misc]  # without types
    """What a client may do with the files below `root`."""

    root: Path

    def _here(self, path: str) -> Path:
        return self.root / str(self.canonicalize(path)).lstrip("/")

    def list_folder(self, path: str) -> Any:
        try:
            return [paramiko.SFTPAttributes.from_stat(child.stat(), child.name) for child in self._here(path).iterdir()]
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def stat(self, path: str) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(self._here(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    lstat = stat

    def open(self, path: str, flags: int, attr: Any) -> Any:
        try:
            descriptor = os.open(self._here(path), flags, 0o644)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        handle = _Handle(flags)
        mode = "r+b" if flags & os.O_RDWR else "wb" if flags & os.O_WRONLY else "rb"
        handle.readfile = handle.writefile = os.fdopen(descriptor, mode)
        return handle

    def remove(self, path: str) -> int:
        return self._done(self._here(path).unlink)

    def mkdir(self, path: str, attr: Any) -> int:
        return self._done(self._here(path).mkdir)

    def _done(self, action: Any) -> int:
        try:
            action()
        except OSError as error:
            return int(paramiko.SFTPServer.convert_errno(error.errno))
        return int(paramiko.SFTP_OK)


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """The address of `root` on a server that runs until the block ends, with the credentials in it."""
    key = paramiko.ECDSAKey.generate()
    files = type("Files", (_Files,), {"root": root})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        opened: list[Any] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    transport = paramiko.Transport(listening.accept()[0])
                    opened.append(transport)
                    transport.add_server_key(key)
                    transport.set_subsystem_handler("sftp", paramiko.SFTPServer, files)
                    with suppress(paramiko.SSHException, EOFError):
                        transport.start_server(server=_Login())

        threading.Thread(target=accept, daemon=True).start()
        yield f"sftp://{USER}:{PASSWORD}@127.0.0.1:{listening.getsockname()[1]}"
        for transport in opened:
            transport.close()
